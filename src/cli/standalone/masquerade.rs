//! NAT rules that CNI's bridge plugin has left: killed between the removal of a pod's link and that of its rules (its
//! caller's caller died), it never finds them again, since it looks for them by the link's addresses.

use anyhow::Context;
use node_config::net::Cidr;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// Removes them. To be called when no pod has one of these addresses any more.
pub(super) fn remove(pods: &Cidr) -> anyhow::Result<()> {
    let saved = Command::new("iptables-save").args(["-t", "nat"]).output().context("iptables-save")?;
    let Some(script) = undo(&String::from_utf8_lossy(&saved.stdout), pods) else { return Ok(()) };
    let mut restore = Command::new("iptables-restore");
    restore.args(["--noflush", "--wait"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut restore = restore.spawn().context("iptables-restore")?;
    // Dropped at the end of the statement: the pipe is closed, and the program reads to the end.
    restore.stdin.take().context("no pipe")?.write_all(script.as_bytes())?;
    let output = restore.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "iptables-restore: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What `iptables-restore` is to read so that the jumps for these addresses and the chains of their network go.
fn undo(rules: &str, pods: &Cidr) -> Option<String> {
    let (mut jumps, mut chains) = (Vec::new(), BTreeSet::new());
    for rule in rules.lines().filter_map(|line| line.strip_prefix("-A ")) {
        let Some((chain, matches)) = rule.split_once(' ') else { continue };
        let of = |option: &str| matches.split(' ').skip_while(|word| *word != option).nth(1);
        let address = of("-s").and_then(|source| source.split('/').next()?.parse::<IpAddr>().ok());
        let target = of("-j").filter(|target| target.starts_with("CNI-"));
        if chain == "POSTROUTING"
            && let Some(target) = target
            && address.is_some_and(|address| pods.contains(address))
        {
            jumps.push(rule);
            chains.insert(target);
        } else if chain.starts_with("CNI-") && of("-d") == Some(&pods.to_string()) {
            // Its jump is gone already.
            chains.insert(chain);
        }
    }
    let jumps = jumps.into_iter().map(|jump| format!("-D {jump}\n"));
    let chains = chains.into_iter().map(|chain| format!("-F {chain}\n-X {chain}\n"));
    let lines: String = jumps.chain(chains).collect();
    (!lines.is_empty()).then(|| format!("*nat\n{lines}COMMIT\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_of_pods_of_this_network_are_undone() {
        let rules = r#"*nat
:POSTROUTING ACCEPT [0:0]
:CNI-aa - [0:0]
-A POSTROUTING -s 10.1.0.5/32 -m comment --comment "name: \"skiff\" id: \"x\"" -j CNI-aa
-A POSTROUTING -s 10.2.0.5/32 -m comment --comment "name: \"skiff\" id: \"y\"" -j CNI-bb
-A POSTROUTING -s 10.1.0.6/32 -j MASQUERADE
-A POSTROUTING -j CNI-HOSTPORT-MASQ
-A CNI-aa -d 10.1.0.0/24 -j ACCEPT
-A CNI-aa ! -d 224.0.0.0/4 -j MASQUERADE
-A CNI-cc -d 10.1.0.0/24 -j ACCEPT
-A CNI-dd -d 10.2.0.0/24 -j ACCEPT
COMMIT
"#;
        let script = undo(rules, &"10.1.0.0/24".parse().unwrap()).unwrap();
        let jump = r#"-D POSTROUTING -s 10.1.0.5/32 -m comment --comment "name: \"skiff\" id: \"x\"" -j CNI-aa"#;
        assert_eq!(script, format!("*nat\n{jump}\n-F CNI-aa\n-X CNI-aa\n-F CNI-cc\n-X CNI-cc\nCOMMIT\n"));
        assert_eq!(undo(rules, &"10.3.0.0/24".parse().unwrap()), None);
    }
}
