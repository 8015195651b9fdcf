//! A number that no other running node has, in this process or another, and what follows from it: ports, addresses,
//! names. Held by an flock, so that a killed test frees it.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};

/// Nodes at once on one machine.
const SLOTS: u16 = 64;
/// Below the ephemeral range (32768…) and above the node ports that upstream gives out.
const FIRST_PORT: u16 = 21_000;
const PORTS_PER_SLOT: u16 = 16;

pub struct Slot {
    pub number: u16,
    _lock: Flock<File>,
}

impl Slot {
    pub fn take() -> Self {
        let dir = "/tmp/skiff-e2e-slots";
        fs::create_dir_all(dir).expect("the folder of slots");
        for number in 0..SLOTS {
            let path = format!("{dir}/{number}");
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).expect("a slot's file");
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Self { number, _lock: lock };
            }
        }
        panic!("all {SLOTS} slots are taken");
    }

    /// The folders of its nodes lie in `/tmp` and begin so.
    pub fn dir_prefix(&self) -> String {
        format!("skiff-e2e-{}-", self.number)
    }
    pub fn port(&self, offset: u16) -> u16 {
        assert!(offset < PORTS_PER_SLOT, "a slot has {PORTS_PER_SLOT} ports");
        FIRST_PORT + self.number * PORTS_PER_SLOT + offset
    }
    pub fn node_name(&self) -> String {
        format!("pool-{}", self.number)
    }
    /// Lies on a bridge of the test's own.
    pub fn node_ip(&self) -> String {
        format!("10.211.{}.1", self.number)
    }
    pub fn link(&self) -> String {
        format!("skt{}", self.number)
    }
    pub fn pod_cidr(&self) -> String {
        format!("10.212.{}.0/24", self.number)
    }
    pub fn pod_prefix(&self) -> String {
        format!("10.212.{}.", self.number)
    }
    pub fn bridge(&self) -> String {
        format!("skp{}", self.number)
    }
    pub fn cgroup(&self) -> String {
        format!("/skiff-e2e-{}", self.number)
    }
}
