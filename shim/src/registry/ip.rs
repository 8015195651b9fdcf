//! Addresses and prefixes as fields: their rules and texts.

use super::field::{Errors, Path};
use std::net::IpAddr;

const IP_TEXT: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR_TEXT: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// `IsValidIP`.
pub fn validate(ip: &str, path: &Path, errors: &mut Errors) -> Option<IpAddr> {
    let parsed = ip.parse().ok();
    if parsed.is_none() {
        errors.push(path.invalid(ip, IP_TEXT));
    }
    parsed
}

/// `IsValidCIDR`.
pub fn validate_cidr(cidr: &str, path: &Path, errors: &mut Errors) {
    if parse_cidr(cidr).is_none() {
        errors.push(path.invalid(cidr, CIDR_TEXT));
    }
}

/// Address and prefix length.
pub fn parse_cidr(cidr: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = cidr.split_once('/')?;
    let (ip, bits): (IpAddr, u8) = (ip.parse().ok()?, bits.parse().ok()?);
    (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, bits))
}

/// `ValidateEndpointIP`: an address that something else could be reached at.
pub fn validate_non_special(ip: &str, path: &Path, errors: &mut Errors) {
    let Ok(parsed) = ip.parse::<IpAddr>() else {
        errors.push(path.invalid(ip, "must be a valid IP address"));
        return;
    };
    let (link_local, link_local_multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if parsed.is_unspecified() {
        errors.push(path.invalid(ip, &format!("may not be unspecified ({ip})")));
    }
    if parsed.is_loopback() {
        errors.push(path.invalid(ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if link_local {
        errors.push(path.invalid(ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if link_local_multicast {
        errors.push(path.invalid(ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
}

/// Whether the network of that many bits holds the address.
pub fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// Whether no bit is set beyond the prefix.
pub fn is_network(address: IpAddr, bits: u8) -> bool {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
        IpAddr::V6(v6) => v6.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
    }
}
