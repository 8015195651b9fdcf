//! The etcd engine: the keys, leases and compaction of a stock kube-apiserver, so that both can share one cluster.
//!
//! A write is one transaction, acknowledged when etcd has it on a quorum of disks. Reads of the present are
//! linearizable. A member that fails is left for the next one; where none has a leader, requests end `Unavailable`
//! after a few seconds, and the watch cache above goes on answering what it knows.

mod compactor;
mod fault;
mod keys;
mod latest;
mod lease;
mod members;
mod probe;
#[cfg(test)]
mod tests;
mod watch;

use super::key::StoreKey;
use super::{Expect, KeyValue, Page, Store, StoreError, WatchStream, Write};
use crate::clock;
use crate::revision::Revision;
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use fault::Fault;
use futures::future::join_all;
use keys::Keys;
use latest::Latest;
use lease::Leases;
use members::{Answer, Member, Members, Repeat};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

/// How long a read may take, tries of other members included.
const READ_PATIENCE: Duration = Duration::from_secs(5);
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How long opening waits for an etcd that is only just starting.
const OPEN_PATIENCE: Duration = Duration::from_secs(20);
const OPEN_PAUSE: Duration = Duration::from_millis(250);
/// Keys that one request reads (kube-apiserver: up to 10,000; objects may be large).
const PAGE_KEYS: usize = 500;
/// How long a watch from the beginning may take to tell what was compacted.
const OLDEST_PATIENCE: Duration = Duration::from_secs(1);

/// Where etcd is and how to get in, under kube-apiserver's flag names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `--etcd-servers`
    pub servers: Vec<String>,
    /// `--etcd-cafile`
    pub ca_file: Option<PathBuf>,
    /// `--etcd-certfile`
    pub cert_file: Option<PathBuf>,
    /// `--etcd-keyfile`
    pub key_file: Option<PathBuf>,
    /// `--etcd-prefix`
    pub prefix: String,
    /// `--etcd-compaction-interval`; zero leaves compaction to others.
    pub compaction_interval: Duration,
}

impl EtcdConfig {
    /// kube-apiserver's defaults.
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            ca_file: None,
            cert_file: None,
            key_file: None,
            prefix: "/registry".into(),
            compaction_interval: Duration::from_secs(5 * 60),
        }
    }
}

/// Why etcd cannot be used; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("--etcd-servers: {url:?} is not an address of the form https://127.0.0.1:2379")]
    Address { url: String },
    #[error("{flag}: cannot read {}: {source}", .path.display())]
    File { flag: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{flag}: there is no {} in {}", if *.flag == "--etcd-keyfile" { "private key" } else { "certificate" }, .path.display())]
    Pem { flag: &'static str, path: PathBuf },
    #[error("--etcd-certfile and --etcd-keyfile go together: name both or none")]
    Half,
    #[error("--etcd-certfile and --etcd-keyfile are not a pair that TLS can use: {0}")]
    Tls(String),
    #[error("no etcd server can be used: {0}")]
    Unusable(String),
}

/// What the handle and its watches share.
struct Shared {
    members: Members,
    keys: Keys,
    leases: Leases,
    /// The newest revision that a caller saw: watches that have not reached it ask etcd how far they are.
    wanted: channel::Sender<Revision>,
    closed: CancellationToken,
}

/// A store in an etcd cluster.
pub struct EtcdStore {
    shared: Arc<Shared>,
    latest: Latest,
}

impl EtcdStore {
    /// Finds a member that answers: waits for a cluster that is starting, but not for what waiting cannot heal.
    pub async fn open(config: &EtcdConfig) -> Result<Self, EtcdError> {
        let members = Members::new(config).await?;
        wait_for_any(&members, OPEN_PATIENCE).await?;
        let shared = Shared {
            members,
            keys: Keys::new(&config.prefix),
            leases: Leases::default(),
            wanted: channel::Sender::new(Revision(0)),
            closed: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared), latest: Latest::default() })
    }

    /// The task that compacts every `interval`, until it is dropped.
    pub fn compactor(&self, interval: Duration) -> impl Future<Output = ()> + Send + use<> {
        compactor::run(self.shared.clone(), interval)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.shared.closed.is_cancelled() {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        Ok(())
    }

    /// Somebody will wait for the watches to reach that revision.
    fn want(&self, revision: Revision) {
        self.shared.wanted.send_if_modified(|wanted| {
            let newer = revision > *wanted;
            *wanted = revision.max(*wanted);
            newer
        });
    }

    async fn read(&self, start: Vec<u8>, options: GetOptions) -> Result<GetResponse, Fault> {
        let request = |member: Arc<Member>| {
            let (start, options) = (start.clone(), options.clone());
            async move { member.kv().get(start, Some(options)).await }
        };
        Ok(self.shared.members.call(Repeat::Safe, READ_PATIENCE, request).await?.value)
    }

    /// The revision of now, by a read that a quorum confirms.
    async fn read_current(&self) -> Result<Revision, StoreError> {
        let read = self.read(compactor::KEY.into(), GetOptions::new()).await.map_err(Fault::into_store_error)?;
        head(&read)
    }

    /// Refuses revisions that etcd no longer has, or does not have yet.
    async fn check_revision(&self, at: Revision) -> Result<(), StoreError> {
        let options = GetOptions::new().with_revision(signed(at)).with_count_only();
        match self.read(compactor::KEY.into(), options).await {
            Ok(_) => Ok(()),
            Err(fault) => Err(self.explain(fault, at).await),
        }
    }

    /// The error of a read at `asked`.
    async fn explain(&self, fault: Fault, asked: Revision) -> StoreError {
        match fault {
            Fault::Compacted => StoreError::Compacted { oldest: self.oldest(asked).await },
            Fault::Future => match self.read_current().await {
                Ok(current) => StoreError::Future { asked, current },
                Err(error) => error,
            },
            other => other.into_store_error(),
        }
    }

    /// What was compacted last. etcd tells only watches, so one is asked; where it does not answer, the least that can
    /// be said is that it is newer than what was refused.
    async fn oldest(&self, refused: Revision) -> Revision {
        let probe = async {
            let mut watch = watch::EtcdWatch::open(self.shared.clone(), "/registry/", Revision(1)).await?;
            match watch.next().await {
                Some(Err(error)) => Err(error),
                Some(Ok(_)) | None => Ok(()),
            }
        };
        match tokio::time::timeout(OLDEST_PATIENCE, probe).await {
            Ok(Err(StoreError::Compacted { oldest })) if oldest > refused => oldest,
            _ => Revision(refused.0 + 1),
        }
    }

    async fn write(&self, write: &Write, lease: Option<i64>) -> Result<Answer<TxnResponse>, Fault> {
        let key = self.shared.keys.outward(write.key.as_str());
        // A put under a condition may be repeated: the second try finds the first one's value. A delete would find
        // nothing and not know whose doing that was; an unconditional put might undo somebody's later write.
        let repeat = match (&write.put, write.expect) {
            (Some(_), Expect::Absent | Expect::At(_)) => Repeat::Safe,
            (Some(_), Expect::Any) | (None, _) => Repeat::Never,
        };
        let request = |member: Arc<Member>| {
            let txn = transaction(&key, write, lease);
            async move { member.kv().txn(txn).await }
        };
        self.shared.members.call(repeat, WRITE_PATIENCE, request).await
    }

    /// `write` under a lease where it has a time to live; a lease that ran out meanwhile is replaced once.
    async fn write_leased(&self, write: &Write) -> Result<Answer<TxnResponse>, Fault> {
        let Some(ttl) = write.ttl.filter(|_| write.put.is_some()) else { return self.write(write, None).await };
        let Shared { leases, members, .. } = &*self.shared;
        let lease = leases.take(members, ttl).await?;
        match self.write(write, Some(lease)).await {
            Err(Fault::LeaseGone) => {
                leases.forget(lease).await;
                let lease = leases.take(members, ttl).await?;
                self.write(write, Some(lease)).await
            }
            other => other,
        }
    }
}

/// Asks all members until one answers.
async fn wait_for_any(members: &Members, patience: Duration) -> Result<(), EtcdError> {
    let until = clock::now().mono + patience;
    loop {
        let ask = |member: Arc<Member>| async move {
            let fault = match tokio::time::timeout(READ_PATIENCE, member.kv().get(compactor::KEY, None)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => Fault::of(&error),
                Err(_) => Fault::silent(),
            };
            let fault = match fault {
                // A connection that was never right may end in either.
                Fault::Broken(_) | Fault::Unreachable { lasting: false, .. } => {
                    members.refusal(&member.url).await.unwrap_or(fault)
                }
                other => other,
            };
            Err((member.url.clone(), fault))
        };
        let answers = join_all(members.all().into_iter().map(ask)).await;
        if answers.iter().any(Result::is_ok) {
            return Ok(());
        }
        let faults: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
        let hopeless = |fault: &Fault| matches!(fault, Fault::Unreachable { lasting: true, .. } | Fault::Refused(_));
        if faults.iter().all(|(_, fault)| hopeless(fault)) || clock::now().mono >= until {
            let each: Vec<String> = faults.iter().map(|(url, fault)| format!("{url}: {fault}")).collect();
            return Err(EtcdError::Unusable(each.join("; ")));
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
}

fn transaction(key: &str, write: &Write, lease: Option<i64>) -> Txn {
    let condition = match (write.expect, &write.put) {
        (Expect::Absent, _) => Some(Compare::mod_revision(key, CompareOp::Equal, 0)),
        (Expect::At(revision), _) => Some(Compare::mod_revision(key, CompareOp::Equal, signed(revision))),
        // What is not there cannot be deleted.
        (Expect::Any, None) => Some(Compare::mod_revision(key, CompareOp::Greater, 0)),
        (Expect::Any, Some(_)) => None,
    };
    let operation = match &write.put {
        Some(value) => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease));
            TxnOp::put(key, value.as_ref(), options)
        }
        None => TxnOp::delete(key, None),
    };
    Txn::new().when(condition.into_iter().collect::<Vec<_>>()).and_then([operation]).or_else([TxnOp::get(key, None)])
}

/// The revision of a write, or what is there instead.
fn written(answer: &Answer<TxnResponse>, write: &Write) -> Result<Revision, StoreError> {
    let response = &answer.value;
    let header = response.header().ok_or_else(no_header)?;
    if response.succeeded() {
        return Ok(revision(header.revision()));
    }
    let have = response.op_responses().into_iter().find_map(|op| match op {
        TxnOpResponse::Get(mut get) => get.take_kvs().pop(),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    });
    let have = have.map(|kv| own(write.key.clone(), kv));
    match (&have, &write.put) {
        // The try that broke off was carried out after all.
        (Some(have), Some(value)) if answer.doubt && have.value == value => Ok(have.revision),
        _ => Err(StoreError::Lost(have)),
    }
}

fn own(key: StoreKey, kv: etcd_client::KeyValue) -> KeyValue {
    let at = revision(kv.mod_revision());
    let (_, value) = kv.into_key_value();
    KeyValue { key, revision: at, value: Bytes::from(value) }
}

fn head(response: &GetResponse) -> Result<Revision, StoreError> {
    response.header().map(|header| revision(header.revision())).ok_or_else(no_header)
}

fn no_header() -> StoreError {
    StoreError::Unavailable("etcd answered without a revision".into())
}

/// etcd counts in i64, from 1.
fn revision(of_etcd: i64) -> Revision {
    Revision(u64::try_from(of_etcd).unwrap_or_default())
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &StoreKey) -> Result<(Revision, Option<KeyValue>), StoreError> {
        self.check_open()?;
        let path = self.shared.keys.outward(key.as_str());
        let mut read = self.read(path.into(), GetOptions::new()).await.map_err(Fault::into_store_error)?;
        let at = head(&read)?;
        Ok((at, read.take_kvs().pop().map(|kv| own(key.clone(), kv))))
    }

    async fn list(
        &self,
        prefix: &str,
        at: Option<Revision>,
        after: Option<&StoreKey>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.check_open()?;
        let (mut start, end) = self.shared.keys.range(prefix, after);
        let mut page = Page { revision: at.unwrap_or_default(), items: Vec::new(), more: true };
        let wanted = if limit == 0 { usize::MAX } else { limit };
        while page.more && page.items.len() < wanted {
            let keys = PAGE_KEYS.min(wanted - page.items.len());
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(keys).unwrap_or(i64::MAX))
                .with_revision(signed(page.revision));
            let mut read = match self.read(start.clone(), options).await {
                Ok(read) => read,
                Err(fault) => return Err(self.explain(fault, page.revision).await),
            };
            if page.revision == Revision(0) {
                // Later requests read at this one's revision.
                page.revision = head(&read)?;
            }
            page.more = read.more();
            let kvs = read.take_kvs();
            match kvs.last() {
                Some(last) => start = [last.key(), b"\0"].concat(),
                None => page.more = false,
            }
            let keys = &self.shared.keys;
            page.items.extend(kvs.into_iter().filter_map(|kv| Some(own(keys.inward(kv.key())?, kv))));
        }
        Ok(page)
    }

    async fn commit(&self, write: Write) -> Result<Revision, StoreError> {
        self.check_open()?;
        if write.expect == Expect::Absent && write.put.is_none() {
            // What is absent cannot be deleted, what is there is not absent.
            return Err(StoreError::Lost(self.get(&write.key).await?.1));
        }
        let answer = self.write_leased(&write).await.map_err(Fault::into_store_error)?;
        let revision = written(&answer, &write)?;
        self.want(revision);
        Ok(revision)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        self.check_open()?;
        // Revision 1 is the empty etcd.
        let after = after.max(Revision(1));
        self.check_revision(after).await?;
        Ok(Box::new(watch::EtcdWatch::open(self.shared.clone(), prefix, after).await?))
    }

    async fn compact(&self, below: Revision) -> Result<(), StoreError> {
        self.check_open()?;
        match compactor::compact(&self.shared, below).await {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.explain(fault, below).await),
        }
    }

    async fn current(&self) -> Result<Revision, StoreError> {
        self.check_open()?;
        let current = self.latest.get(|| self.read_current()).await?;
        self.want(current);
        Ok(current)
    }

    async fn close(&self) -> Result<(), StoreError> {
        // Every acknowledged write is on disk already.
        self.shared.closed.cancel();
        Ok(())
    }
}
