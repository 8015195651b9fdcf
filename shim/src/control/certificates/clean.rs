//! certificatesigningrequest-cleaner-controller: requests that are done with are removed.

use super::{CallError, call, is_issued};
use crate::clock;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};
use std::time::Duration;

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(600);
/// How long a request stays after its last word, and how long without one (upstream's expirations).
const DONE_SECONDS: i64 = 3600;
const PENDING_SECONDS: i64 = 24 * 3600;
/// Requests read at a time.
const PAGE_ITEMS: u32 = 500;

/// Removes, for ever.
pub(in crate::control) async fn run(client: Client) {
    loop {
        tokio::time::sleep(PERIOD).await;
        if let Err(error) = pass(&client).await {
            tracing::warn!(%error, "old certificate signing requests not removed, retrying later");
        }
    }
}

async fn pass(client: &Client) -> Result<(), CallError> {
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let now = clock::now().wall.as_second();
    let mut page = ListParams::default().limit(PAGE_ITEMS);
    loop {
        let list = call(api.list(&page)).await?;
        for request in list.items.iter().filter(|request| is_over(request, now)) {
            let only_this = Preconditions { uid: request.metadata.uid.clone(), ..Preconditions::default() };
            let params = DeleteParams::default().preconditions(only_this);
            match call(api.delete(request.metadata.name.as_deref().unwrap_or_default(), &params)).await {
                Ok(_) | Err(CallError::NotFound(_) | CallError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// Whether nobody needs the request any more; `now` in Unix seconds.
fn is_over(request: &CertificateSigningRequest, now: i64) -> bool {
    let conditions = super::conditions(request);
    if conditions.is_empty() {
        let made = request.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0.as_second());
        return now - made > PENDING_SECONDS;
    }
    if is_issued(request) && has_ended(request, now) {
        return true;
    }
    conditions.iter().any(|condition| {
        let said = condition.last_update_time.as_ref().map_or(now, |time| time.0.as_second());
        // Approved and never signed: its signer may still come.
        let wait = match condition.type_.as_str() {
            "Approved" if !is_issued(request) => PENDING_SECONDS,
            "Approved" | "Denied" | "Failed" => DONE_SECONDS,
            _ => return false,
        };
        now - said > wait
    })
}

/// Whether the certificate itself has ended.
fn has_ended(request: &CertificateSigningRequest, now: i64) -> bool {
    let pem = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    let end = pem.and_then(|pem| {
        let (_, block) = x509_parser::pem::parse_x509_pem(&pem.0).ok()?;
        Some(block.parse_x509().ok()?.validity().not_after.timestamp())
    });
    end.is_some_and(|end| end < now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_go_an_hour_after_their_last_word_and_a_day_without_one() {
        const NOW: i64 = 1_767_225_600;
        let at = |ago: i64| jiff::Timestamp::from_second(NOW - ago).unwrap().to_string();
        let request = |age: i64, condition: &str, said: i64, certificate: Option<&str>| {
            let mut status = json!({});
            if !condition.is_empty() {
                status["conditions"] = json!([{"type": condition, "status": "True", "lastUpdateTime": at(said)}]);
            }
            if let Some(certificate) = certificate {
                status["certificate"] = certificate.into();
            }
            let object = json!({
                "metadata": {"name": "csr", "creationTimestamp": at(age)},
                "spec": {"request": "", "signerName": "example.com/s"},
                "status": status,
            });
            serde_json::from_value::<CertificateSigningRequest>(object).unwrap()
        };
        let (hour, day) = (3601, 24 * 3600 + 1);
        for (request, expected) in [
            (request(hour, "", 0, None), false),
            (request(day, "", 0, None), true),
            (request(day, "Denied", 60, None), false),
            (request(day, "Denied", hour, None), true),
            (request(day, "Failed", hour, None), true),
            (request(day, "Approved", hour, Some("UEVN")), true),
            (request(day, "Approved", 60, Some("UEVN")), false),
            (request(day, "Approved", hour, None), false),
            (request(day, "Approved", day, None), true),
        ] {
            assert_eq!(is_over(&request, NOW), expected, "{request:?}");
        }
    }
}
