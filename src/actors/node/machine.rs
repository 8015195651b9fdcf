//! Reads what the machine is: CPUs, memory, identities, and the address that its default route uses.

use crate::model::node::Machine;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// The machine, from `/proc`, `/sys` and `/etc`. Identities that are not there stay empty.
pub(super) fn read() -> io::Result<Machine> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let first_of = |paths: &[&str]| paths.iter().find_map(|path| line(path)).unwrap_or_default();
    Ok(Machine {
        cpus: cpu_count(&fs::read_to_string("/sys/devices/system/cpu/online")?),
        memory_bytes: meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0),
        swap_bytes: meminfo_bytes(&meminfo, "SwapTotal").unwrap_or(0),
        huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
        machine_id: first_of(&["/etc/machine-id", "/var/lib/dbus/machine-id"]),
        // The order of cadvisor's GetSystemUUID.
        system_uuid: first_of(&["/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid", "/etc/machine-id"]),
        boot_id: first_of(&["/proc/sys/kernel/random/boot_id"]),
        app_armor: first_of(&["/sys/module/apparmor/parameters/enabled"]).trim() == "Y",
        kernel_version: first_of(&["/proc/sys/kernel/osrelease"]),
        os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        },
    })
}

/// The address of the interface with the default route, IPv4 before IPv6.
pub(super) fn default_address() -> Option<IpAddr> {
    default_address_of(Ipv4Addr::UNSPECIFIED.into()).or_else(|| default_address_of(Ipv6Addr::UNSPECIFIED.into()))
}

/// The same of the family that `like` is of.
pub(super) fn default_address_of(like: IpAddr) -> Option<IpAddr> {
    if like.is_ipv4() {
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        return default_interface(&routes).and_then(|name| address_of(name, IpAddr::is_ipv4));
    }
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    default_interface6(&routes).and_then(|name| address_of(name, IpAddr::is_ipv6))
}

fn address_of(interface: &str, wanted: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?.filter(|entry| entry.interface_name == interface);
    let mut addresses = addresses.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    addresses.find(|ip| wanted(ip) && !is_link_local(ip))
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || *ip == Ipv6Addr::LOCALHOST,
    }
}

/// Lines of `/proc/net/route`: Iface Destination Gateway Flags RefCnt Use Metric Mask …; the lowest metric wins.
fn default_interface(routes: &str) -> Option<&str> {
    let rows = routes.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let default = rows.filter(|row| row.len() > 7 && row[1] == "00000000" && row[7] == "00000000");
    default.min_by_key(|row| row[6].parse().unwrap_or(u32::MAX)).map(|row| row[0])
}

/// Lines of `/proc/net/ipv6_route`: destination length source length next-hop metric refs uses flags interface.
fn default_interface6(routes: &str) -> Option<&str> {
    let rows = routes.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let default =
        rows.filter(|row| row.len() > 9 && row[1] == "00" && row[9] != "lo" && row[0].bytes().all(|b| b == b'0'));
    default.min_by_key(|row| u32::from_str_radix(row[5], 16).unwrap_or(u32::MAX)).map(|row| row[9])
}

fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.trim_end_matches(['\0', '\n']).trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// `0-3,5` is five.
fn cpu_count(list: &str) -> u32 {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    });
    ranges.sum()
}

fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn huge_pages(dir: &Path) -> BTreeMap<u64, u64> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some((kib * 1024, pages))
    });
    sizes.collect()
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Unknown".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_machine_are_read() {
        for (list, count) in [("0", 1), ("0-1\n", 2), ("0-3,5,8-9", 7)] {
            assert_eq!(cpu_count(list), count);
        }
        assert_eq!(meminfo_bytes("MemTotal:       24659856 kB\nMemFree: 1 kB\n", "MemTotal"), Some(24_659_856 << 10));
        assert_eq!(
            os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        let machine = read().unwrap();
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && !machine.boot_id.is_empty());
    }

    #[test]
    fn the_default_route_of_lowest_metric_names_the_interface() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      eth1\t00000000\t0101A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                      eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_interface(routes), Some("eth0"));
        assert_eq!(default_interface("Iface\tDestination\n"), None);
        let zero = "0".repeat(32);
        let routes = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth2\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
        );
        assert_eq!(default_interface6(&routes), Some("eth2"));
    }
}
