//! The service at which device plugins register (`v1beta1.Registration`), as the kubelet serves it.

use crate::plugins::proto::device::{Empty, RegisterRequest};
use crate::plugins::rpc;
use async_trait::async_trait;
use futures::FutureExt;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use tonic::Status;

/// Who is told of plugins.
#[async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Takes a plugin; the error is the plugin's to read.
    async fn register(&self, request: RegisterRequest) -> Result<(), String>;
}

/// Serves until dropped.
pub async fn serve(listener: UnixListener, registrar: Arc<dyn Registrar>) -> Result<(), tonic::transport::Error> {
    let service = tower::service_fn(move |request: tonic::codegen::http::Request<tonic::body::Body>| {
        let registrar = registrar.clone();
        async move {
            let path = request.uri().path().to_owned();
            Ok(match path.as_str() {
                "/v1beta1.Registration/Register" => {
                    rpc::answer(request, |request: RegisterRequest| {
                        let registrar = registrar.clone();
                        // What grpc-go makes of an error that is no status.
                        async move { registrar.register(request).await.map(|()| Empty {}).map_err(Status::unknown) }
                    })
                    .await
                }
                path => rpc::unknown(path),
            })
        }
        .boxed()
    });
    rpc::serve(listener, service).await
}

/// Removes the sockets in `dir`: a plugin sees by it that it must register again.
pub fn remove_sockets(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
