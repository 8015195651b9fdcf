//! The members of an etcd cluster: one lazy connection each, which one is in use, and where to go when it fails.

use super::fault::{Fault, Outcome};
use super::{EtcdConfig, EtcdError, probe};
use crate::clock;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, KvClient, LeaseClient, TlsOptions, WatchClient};
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// HTTP/2 pings find a member that died without a word; etcd allows one every 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(5);
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// Pause once every member has failed, doubled up to the longest.
const ROUND_PAUSE_FIRST: Duration = Duration::from_millis(50);
const ROUND_PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// Answers may be as long as etcd makes them: a page of objects of up to 1.5 MiB each.
const MESSAGE_BYTES: usize = i32::MAX as usize;

/// Whether a request whose fate is unknown may be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Repeat {
    Safe,
    Never,
}

/// What a request brought.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    /// An earlier try broke off, and may have been carried out.
    pub(super) doubt: bool,
}

/// One member; its clients are cheap to clone.
pub(super) struct Member {
    pub(super) url: String,
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
}

impl Member {
    pub(super) fn kv(&self) -> KvClient {
        self.kv.clone()
    }
    pub(super) fn watch(&self) -> WatchClient {
        self.watch.clone()
    }
    pub(super) fn lease(&self) -> LeaseClient {
        self.lease.clone()
    }
}

/// All members.
pub(super) struct Members {
    config: EtcdConfig,
    /// Made anew when the certificate files change.
    all: RwLock<Arc<Set>>,
    in_use: AtomicUsize,
    /// The last request had an answer; changes are logged once.
    well: AtomicBool,
}

/// The members under one set of certificates.
struct Set {
    pems: Pems,
    members: Vec<Arc<Member>>,
}

impl Members {
    /// Reads the certificate files; connects to nobody yet.
    pub(super) async fn new(config: &EtcdConfig) -> Result<Self, EtcdError> {
        let set = Set::new(config, Pems::read(config)?).await?;
        Ok(Self {
            config: config.clone(),
            all: RwLock::new(Arc::new(set)),
            in_use: AtomicUsize::new(0),
            well: AtomicBool::new(true),
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<Member>> {
        self.set().members.clone()
    }

    /// What lasting fault is behind a connection that broke off.
    pub(super) async fn refusal(&self, url: &str) -> Option<Fault> {
        if let Some(fault) = probe::other_scheme(url).await {
            return Some(fault);
        }
        let set = self.set();
        let (ca, client) = (set.pems.ca.as_deref()?, set.pems.client.as_ref());
        probe::refusal(url, ca, client.map(|(certificate, key)| (&certificate[..], &key[..]))).await
    }

    fn set(&self) -> Arc<Set> {
        // A panic cannot have left half an Arc.
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up certificates that were renewed since (only a new connection needs them, so this is the time).
    async fn renew(&self) {
        let renewed = match Pems::read(&self.config) {
            Ok(pems) if pems == self.set().pems => return,
            Ok(pems) => Set::new(&self.config, pems).await,
            Err(error) => Err(error),
        };
        match renewed {
            Ok(set) => {
                *self.all.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
                tracing::info!("the certificates for etcd were renewed");
            }
            Err(error) => tracing::warn!(%error, "the certificates for etcd cannot be read again"),
        }
    }

    /// Sends a request to the member in use, and to the others while it fails there, for as long as `patience` lasts.
    pub(super) async fn call<T, R>(
        &self,
        repeat: Repeat,
        patience: Duration,
        request: impl Fn(Arc<Member>) -> R,
    ) -> Result<Answer<T>, Fault>
    where
        R: Future<Output = Result<T, etcd_client::Error>>,
    {
        let until = clock::now().mono + patience;
        let count = self.config.servers.len();
        // A member that does not answer leaves time for another.
        let attempt = if count > 1 { patience / 2 } else { patience };
        let (mut doubt, mut failures, mut pause) = (false, 0, ROUND_PAUSE_FIRST);
        loop {
            let index = self.in_use.load(Ordering::Relaxed) % count;
            let limit = until.min(clock::now().mono + attempt);
            let member = self.set().members[index].clone();
            let fault = match tokio::time::timeout_at(limit, request(member.clone())).await {
                Ok(Ok(value)) => {
                    self.note(None, &member.url);
                    return Ok(Answer { value, doubt });
                }
                Ok(Err(error)) => Fault::of(&error),
                Err(_) => Fault::silent(),
            };
            match fault.outcome() {
                Outcome::Answered => {
                    self.note(None, &member.url);
                    return Err(fault);
                }
                Outcome::Unknown if repeat == Repeat::Never => {
                    self.leave(index);
                    return Err(fault);
                }
                Outcome::Unknown => doubt = true,
                Outcome::NotDone => {}
            }
            self.note(Some(&fault), &member.url);
            self.leave(index);
            failures += 1;
            let now = clock::now().mono;
            let round_is_over = failures % count == 0;
            if now + if round_is_over { pause } else { Duration::ZERO } >= until {
                return Err(fault);
            }
            if round_is_over {
                self.renew().await;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ROUND_PAUSE_LONGEST);
            }
        }
    }

    /// Goes on with the next member, unless another request did so already.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.config.servers.len();
        // A lost race means just that.
        let _ = self.in_use.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn note(&self, fault: Option<&Fault>, url: &str) {
        let was_well = self.well.swap(fault.is_none(), Ordering::Relaxed);
        match (was_well, fault) {
            (true, Some(fault)) => tracing::warn!(%url, %fault, "etcd does not answer"),
            (false, None) => tracing::info!(%url, "etcd answers again"),
            (true, None) | (false, Some(_)) => {}
        }
    }
}

impl Set {
    async fn new(config: &EtcdConfig, pems: Pems) -> Result<Self, EtcdError> {
        let mut members = Vec::with_capacity(config.servers.len());
        for url in &config.servers {
            let address = || EtcdError::Address { url: url.clone() };
            let mut options = ConnectOptions::new()
                .with_require_leader(true)
                .with_connect_timeout(CONNECT_WAIT)
                .with_keep_alive(PING_EVERY, PING_WAIT);
            if url.starts_with("https://") {
                options = options.with_tls(pems.tls());
            } else if !url.starts_with("http://") {
                return Err(address());
            }
            let connected = Client::connect([url.as_str()], Some(options)).await;
            let client = connected.map_err(|error| match error {
                etcd_client::Error::TransportError(error) => EtcdError::Tls(Fault::of(&error.into()).to_string()),
                _ => address(),
            })?;
            members.push(Arc::new(Member {
                url: url.clone(),
                kv: client.kv_client().max_decoding_message_size(MESSAGE_BYTES),
                watch: client.watch_client().max_decoding_message_size(MESSAGE_BYTES),
                lease: client.lease_client(),
            }));
        }
        if members.is_empty() {
            return Err(EtcdError::Address { url: String::new() });
        }
        Ok(Self { pems, members })
    }
}

/// What the certificate files hold.
#[derive(PartialEq, Eq)]
struct Pems {
    ca: Option<Vec<u8>>,
    /// Certificate and key.
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pems {
    fn read(config: &EtcdConfig) -> Result<Self, EtcdError> {
        let ca = config.ca_file.as_ref().map(|path| pem("--etcd-cafile", path)).transpose()?;
        let client = match (&config.cert_file, &config.key_file) {
            (Some(cert), Some(key)) => Some((pem("--etcd-certfile", cert)?, pem("--etcd-keyfile", key)?)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(EtcdError::Half),
        };
        Ok(Self { ca, client })
    }

    /// TLS as kube-apiserver sets it up: the CA named, or else the system's; a client certificate where there is one.
    fn tls(&self) -> TlsOptions {
        let tls = TlsOptions::new().timeout(CONNECT_WAIT);
        let tls = match &self.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
            None => tls.with_native_roots(),
        };
        match &self.client {
            Some((cert, key)) => tls.identity(Identity::from_pem(cert, key)),
            None => tls,
        }
    }
}

fn pem(flag: &'static str, path: &Path) -> Result<Vec<u8>, EtcdError> {
    let bytes = std::fs::read(path).map_err(|source| EtcdError::File { flag, path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&bytes);
    let wanted = if flag == "--etcd-keyfile" { "PRIVATE KEY-----" } else { "-----BEGIN CERTIFICATE-----" };
    if !text.contains(wanted) {
        return Err(EtcdError::Pem { flag, path: path.to_owned() });
    }
    Ok(bytes)
}
