//! `skiff check`: what this machine has and lacks for a node.

use super::flags::DataDirFlags;
use super::machine::{self, CniPlugins};
use clap::Args;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    data: DataDirFlags,
    /// Where the CNI plugins are; searched for in the usual places otherwise
    #[arg(long, value_name = "path")]
    cni_bin_dir: Option<PathBuf>,
    /// Ports that must be free
    #[arg(long, value_name = "ports", value_delimiter = ',', default_values_t = [6443, 10250, 10248])]
    ports: Vec<u16>,
}

/// Prints one line a finding; fails when a node could not run.
pub(crate) fn run(flags: &Flags) -> ExitCode {
    let mut findings: Vec<(String, Result<String, String>)> = Vec::new();
    let mut add = |what: &str, result: Result<String, machine::Lack>| {
        findings.push((what.to_owned(), result.map_err(|lack| lack.to_string())));
    };
    add("root", machine::root().map(|()| "yes".to_owned()));
    for program in machine::PROGRAMS {
        add(program.name, machine::find_program(program).map(|path| path.display().to_string()));
    }
    let plugins = CniPlugins::find(flags.cni_bin_dir.as_deref());
    add("CNI plugins", plugins.map(|plugins| plugins.dir.display().to_string()));
    add("cgroups", machine::cgroups());
    for &port in &flags.ports {
        let free = machine::port_is_free("", IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        add(&format!("port {port}"), free.map(|()| "free".to_owned()));
    }
    let route = machine::default_address();
    let address =
        route.map_or("no default route: pods' bridge will carry the node's address".into(), |a| a.to_string());
    findings.push(("node address".into(), Ok(address)));
    let data_dir = flags.data.data_dir.display();
    findings.push(("data directory".into(), Ok(data_dir.to_string())));

    for (what, result) in &findings {
        match result {
            Ok(found) => println!("ok    {what:<16} {found}"),
            Err(lack) => println!("FAIL  {what:<16} {lack}"),
        }
    }
    if findings.iter().any(|(_, result)| result.is_err()) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
