//! `ip(…)` and `cidr(…)`: addresses and networks as values.

use std::fmt;
use std::net::IpAddr;

/// An address, not an IPv4-mapped IPv6 one, without a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip(pub IpAddr);

impl Ip {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
                Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
            }
            Ok(address) => Ok(Self(address)),
            Err(_) => Err(format!(
                "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
            )),
        }
    }

    pub fn family(self) -> i64 {
        if self.0.is_ipv4() { 4 } else { 6 }
    }

    pub fn is_link_local_multicast(self) -> bool {
        match self.0 {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        }
    }

    pub fn is_link_local_unicast(self) -> bool {
        match self.0 {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
        }
    }

    pub fn is_global_unicast(self) -> bool {
        let broadcast = matches!(self.0, IpAddr::V4(v4) if v4.is_broadcast());
        let other = self.0.is_unspecified() || self.0.is_loopback() || self.0.is_multicast();
        !broadcast && !other && !self.is_link_local_unicast()
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network: an address in it, and how long its prefix is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    pub address: IpAddr,
    pub bits: u8,
}

impl Cidr {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): invalid")
        };
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address = Ip::parse(address).map_err(|_| wrong())?.0;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        if bits > Self::width(address) {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }

    fn width(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// The address without its host part.
    pub fn masked(self) -> Self {
        Self { address: mask(self.address, self.bits), ..self }
    }

    pub fn contains_ip(self, ip: Ip) -> bool {
        self.address.is_ipv4() == ip.0.is_ipv4() && mask(ip.0, self.bits) == mask(self.address, self.bits)
    }

    pub fn contains(self, other: Self) -> bool {
        other.bits >= self.bits && self.contains_ip(Ip(other.address))
    }
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}
