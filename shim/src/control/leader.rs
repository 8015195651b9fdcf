//! Leader election as client-go's: who holds a Lease in `kube-system` runs the controllers that go by its name, for as long
//! as it renews it. With several servers on one etcd, or a stock kube-controller-manager beside ours, one runs them.

use super::call::{CallError, call};
use super::informer::Informer;
use crate::clock;
use crate::config::{JITTER, Timing};
use crate::task::Tasks;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const NAMESPACE: &str = "kube-system";

/// One candidate for one lease.
pub(super) struct Candidate {
    pub(super) client: Client,
    /// The lease's name: the stock component's whose controllers these are.
    pub(super) lease: &'static str,
    /// `<host>_<uuid>`, as client-go's components call themselves.
    pub(super) identity: Arc<str>,
    pub(super) timing: Timing,
}

/// What is to be done about a lease.
#[derive(Debug, PartialEq)]
enum Claim {
    /// It is ours to take: this is the lease to write.
    Take(Box<LeaseSpec>),
    /// Another leads: not before this.
    Wait(Instant),
}

/// The lease as a candidate last saw it, and since when it has been so: renewals are told by change, never by the
/// writer's clock.
#[derive(Default)]
struct Seen {
    spec: Option<LeaseSpec>,
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    fn look(&mut self, lease: Option<&Lease>, now: Instant) {
        let version = lease.and_then(|lease| lease.metadata.resource_version.clone());
        if self.since.is_none() || version != self.version {
            *self = Self { spec: lease.and_then(|lease| lease.spec.clone()), version, since: Some(now) };
        }
    }

    /// `LeaderElector.tryAcquireOrRenew`, as a decision.
    fn claim(&self, me: &str, timing: Timing, now: clock::Now) -> Claim {
        let before = self.spec.clone().unwrap_or_default();
        let holder = before.holder_identity.as_deref().unwrap_or_default();
        let mine = holder == me;
        let valid_until = self.since.unwrap_or(now.mono) + timing.lease_duration;
        if !mine && !holder.is_empty() && now.mono < valid_until {
            return Claim::Wait(valid_until);
        }
        let at = MicroTime(now.wall);
        let transitions = before.lease_transitions.unwrap_or(0);
        Claim::Take(Box::new(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: Some(i32::try_from(timing.lease_duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if mine { before.acquire_time } else { Some(at.clone()) },
            renew_time: Some(at),
            lease_transitions: Some(transitions + i32::from(!mine && self.version.is_some())),
            ..LeaseSpec::default()
        }))
    }
}

impl Candidate {
    /// Leads, loses and leads again until `stopping`: `begin` starts what a leader runs in a group of its own, which ends
    /// before anyone else may lead.
    pub(super) async fn run(self, stopping: Tasks, begin: impl Fn(&Tasks)) {
        let stop = stopping.stopping();
        loop {
            // Nothing is lost where this is dropped: a lease taken in that moment is free again when it runs out.
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.acquire() => {}
            }
            tracing::info!(lease = self.lease, identity = &*self.identity, "became leader");
            let term = stopping.group();
            begin(&term);
            let last = tokio::select! {
                () = stop.cancelled() => None,
                lost = self.renew() => Some(lost),
            };
            term.stop().await;
            match last {
                Some(why) => tracing::warn!(lease = self.lease, why, "leads no more"),
                None => return self.release().await,
            }
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Waits until the lease is ours.
    async fn acquire(&self) {
        let selector = ListParams::default().fields(&format!("metadata.name={}", self.lease));
        let mut leases: Informer<Lease> = Informer::new(self.api(), selector, |lease| lease);
        let (mut seen, mut not_before) = (Seen::default(), None::<Instant>);
        loop {
            let wait = async {
                match not_before {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Both arms are cancel-safe: the informer keeps what was not taken.
            tokio::select! {
                _ = leases.next() => {}
                () = wait => {}
            }
            if !leases.is_synced() {
                continue;
            }
            let now = clock::now();
            let lease = leases.store().iter().next().map(|(_, lease)| lease.clone());
            seen.look(lease.as_deref(), now.mono);
            not_before = match seen.claim(&self.identity, self.timing, now) {
                Claim::Wait(until) => Some(until),
                Claim::Take(spec) => match self.write(*spec, seen.version.clone()).await {
                    Ok(()) => return,
                    // Somebody was faster, and the watch will show who.
                    Err(CallError::Conflict(_)) => Some(now.mono + self.timing.lease_duration),
                    Err(error) => {
                        tracing::warn!(lease = self.lease, %error, "the lease could not be taken");
                        Some(now.mono + self.retry())
                    }
                },
            };
        }
    }

    /// Renews for as long as that works; says why it ended.
    async fn renew(&self) -> String {
        let (mut renewed, mut wait) = (clock::now().mono, self.timing.retry_period);
        let mut problem = String::new();
        loop {
            tokio::time::sleep(wait).await;
            let begun = clock::now().mono;
            match tokio::time::timeout_at(renewed + self.timing.renew_deadline, self.renew_once()).await {
                Ok(Ok(None)) => (renewed, wait) = (begun, self.timing.retry_period),
                Ok(Ok(Some(lost))) => return lost,
                Ok(Err(error)) => (problem, wait) = (error.to_string(), self.retry()),
                Err(_) => return format!("not renewed within {:?}: {problem}", self.timing.renew_deadline),
            }
        }
    }

    /// Says why the lease cannot be renewed any more, where that is so; an error only means that it was not.
    async fn renew_once(&self) -> Result<Option<String>, CallError> {
        let lease = match call(self.api().get(self.lease)).await {
            Err(CallError::NotFound(_)) => return Ok(Some("the lease was deleted".to_owned())),
            lease => lease?,
        };
        let (mut seen, now) = (Seen::default(), clock::now());
        seen.look(Some(&lease), now.mono);
        match seen.claim(&self.identity, self.timing, now) {
            Claim::Take(spec) if self.holds(&lease) => self.write(*spec, seen.version).await.map(|()| None),
            _ => Ok(Some(format!("{} holds it", lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()))),
        }
    }

    fn holds(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&*self.identity)
    }

    /// Creates the lease, or replaces just that version of it.
    async fn write(&self, spec: LeaseSpec, version: Option<String>) -> Result<(), CallError> {
        let create = version.is_none();
        let metadata =
            ObjectMeta { name: Some(self.lease.to_owned()), resource_version: version, ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec) };
        let (api, params) = (self.api(), PostParams::default());
        match create {
            true => call(api.create(&params, &lease)).await.map(drop),
            false => call(api.replace(self.lease, &params, &lease)).await.map(drop),
        }
    }

    /// Lets the next one lead at once, as `ReleaseOnCancel` does: what the leader ran has ended.
    async fn release(&self) {
        let released = async {
            let lease = call(self.api().get(self.lease)).await?;
            if !self.holds(&lease) {
                return Ok(());
            }
            let at = MicroTime(clock::now().wall);
            let spec = LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                acquire_time: Some(at.clone()),
                renew_time: Some(at),
                lease_transitions: lease.spec.and_then(|spec| spec.lease_transitions),
                ..LeaseSpec::default()
            };
            self.write(spec, lease.metadata.resource_version).await
        };
        match tokio::time::timeout(self.timing.retry_period, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(lease = self.lease, %error, "the lease was not released"),
            Err(_) => tracing::warn!(lease = self.lease, "the lease was not released in time"),
        }
    }

    /// Spread, so that candidates do not collide.
    fn retry(&self) -> Duration {
        self.timing.retry_period.mul_f64(1.0 + JITTER * rand::random::<f64>())
    }
}

#[cfg(test)]
mod tests;
