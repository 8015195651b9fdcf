//! Address ranges as flags name them (`10.42.0.0/24`), parsed once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address range; host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address range in CIDR notation (such as 10.42.0.0/24)")]
pub struct CidrError {
    text: String,
}

impl Cidr {
    /// First address of the range.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The n-th address after the network address: 1 is a pod range's gateway (as CNI's host-local picks it) and a
    /// service range's `kubernetes` service.
    pub fn nth(&self, n: u32) -> Option<IpAddr> {
        let address = match self.network {
            IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from(u32::from(network).checked_add(n)?)),
            IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network).checked_add(u128::from(n))?)),
        };
        self.contains(address).then_some(address)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        mask(address, self.prefix) == Some(self.network)
    }
}

/// `None`: the prefix is too long for that family.
fn mask(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(address) => {
            let shift = 32u32.checked_sub(prefix)?;
            let bits = u32::from(address);
            Some(IpAddr::V4(Ipv4Addr::from(bits.checked_shr(shift).map_or(0, |kept| kept << shift))))
        }
        IpAddr::V6(address) => {
            let shift = 128u32.checked_sub(prefix)?;
            let bits = u128::from(address);
            Some(IpAddr::V6(Ipv6Addr::from(bits.checked_shr(shift).map_or(0, |kept| kept << shift))))
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let prefix: u8 = prefix.parse().ok()?;
            Some(Self { network: mask(address.parse().ok()?, prefix)?, prefix })
        };
        parse().ok_or_else(|| CidrError { text: text.to_owned() })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_with_host_bits_cleared() {
        for (text, shown, first) in [
            ("10.42.0.0/24", "10.42.0.0/24", Some("10.42.0.1")),
            ("10.43.7.9/16", "10.43.0.0/16", Some("10.43.0.1")),
            ("0.0.0.0/0", "0.0.0.0/0", Some("0.0.0.1")),
            ("10.0.0.1/32", "10.0.0.1/32", None),
            ("fd00:42::/64", "fd00:42::/64", Some("fd00:42::1")),
        ] {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(cidr.to_string(), shown);
            assert_eq!(cidr.nth(1).map(|address| address.to_string()).as_deref(), first);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "10.42.0.0", "10.42.0.0/33", "10.42.0/24", "x/8", "fd00::/129"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
