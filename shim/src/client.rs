//! In-process clients: a `kube::Client` that enters at the pipeline with an identity; no socket, no TLS.

use crate::authn::User;
use crate::http::Front;
use crate::pipeline::Credential;
use std::convert::Infallible;
use std::sync::Arc;

/// A client that is `user`: authorization and admission hold for it as for anyone.
pub fn client(front: Arc<Front>, user: User) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (front, credential) = (front.clone(), Credential::User(user.clone()));
        async move { Ok::<_, Infallible>(front.serve(request, credential).await) }
    });
    kube::Client::new(service, "default")
}
