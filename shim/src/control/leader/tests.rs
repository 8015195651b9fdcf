//! Tests of when a lease may be taken, and when it may not.

use super::*;

fn lease(holder: &str, version: &str, transitions: i32) -> Lease {
    Lease {
        metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_transitions: Some(transitions),
            acquire_time: Some(MicroTime("2026-01-01T00:00:00Z".parse().unwrap())),
            ..LeaseSpec::default()
        }),
    }
}

/// What a candidate does that looked at `lease` and looks again after so many seconds.
fn after(lease: Option<&Lease>, seconds: u64) -> Result<LeaseSpec, Duration> {
    let begun = clock::now();
    let mut seen = Seen::default();
    seen.look(lease, begun.mono);
    let now = clock::Now { mono: begun.mono + Duration::from_secs(seconds), ..begun };
    seen.look(lease, now.mono);
    match seen.claim("me", Timing::default(), now) {
        Claim::Take(spec) => Ok(*spec),
        Claim::Wait(until) => Err(until - now.mono),
    }
}

#[test]
fn a_lease_is_taken_when_it_is_free_ours_or_has_not_changed_for_its_time() {
    let cases = [
        ("there is none", None, 0, Ok(0)),
        ("it was released", Some(lease("", "1", 3)), 0, Ok(4)),
        ("it is ours", Some(lease("me", "1", 3)), 0, Ok(3)),
        ("another holds it", Some(lease("other", "1", 3)), 0, Err(15)),
        ("and held it all the time", Some(lease("other", "1", 3)), 14, Err(1)),
        ("and has not renewed it", Some(lease("other", "1", 3)), 15, Ok(4)),
    ];
    for (what, lease, seconds, expected) in cases {
        let got = after(lease.as_ref(), seconds);
        let expected: Result<i32, Duration> = expected.map_err(Duration::from_secs);
        assert_eq!(got.map(|spec| spec.lease_transitions.unwrap()), expected, "{what}");
    }
}

#[test]
fn a_renewal_keeps_the_time_at_which_leading_began_and_a_new_leader_sets_it() {
    let old = lease("me", "1", 0).spec.unwrap().acquire_time;
    assert_eq!(after(Some(&lease("me", "1", 0)), 0).unwrap().acquire_time, old);
    let taken = after(Some(&lease("other", "1", 0)), 15).unwrap();
    assert_ne!(taken.acquire_time, old);
    assert_eq!(taken.acquire_time, taken.renew_time);
    assert_eq!((taken.holder_identity.as_deref(), taken.lease_duration_seconds), (Some("me"), Some(15)));
}

#[test]
fn a_renewal_that_is_seen_begins_the_wait_anew() {
    let begun = clock::now();
    let mut seen = Seen::default();
    seen.look(Some(&lease("other", "1", 0)), begun.mono);
    let later = clock::Now { mono: begun.mono + Duration::from_secs(14), ..begun };
    seen.look(Some(&lease("other", "2", 0)), later.mono);
    let end = clock::Now { mono: begun.mono + Duration::from_secs(20), ..begun };
    assert_eq!(seen.claim("me", Timing::default(), end), Claim::Wait(later.mono + Duration::from_secs(15)));
}

#[test]
fn times_that_would_let_two_lead_are_refused() {
    let timing = |lease, renew, retry| Timing {
        lease_duration: Duration::from_secs(lease),
        renew_deadline: Duration::from_secs(renew),
        retry_period: Duration::from_secs(retry),
    };
    assert_eq!(Timing::default().check(), Ok(()));
    for (bad, flag) in [
        (timing(10, 10, 2), "--leader-elect-lease-duration"),
        (timing(15, 2, 2), "--leader-elect-renew-deadline"),
        (timing(15, 10, 0), "--leader-elect-retry-period"),
    ] {
        assert!(bad.check().unwrap_err().contains(flag), "{bad:?}");
    }
}
