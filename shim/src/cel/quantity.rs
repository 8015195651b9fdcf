//! `quantity(…)`: resource quantities as values.

use crate::schema::quantity::Quantity;
use std::cmp::Ordering;
use std::fmt;

const NANOS: i128 = 1_000_000_000;

/// A quantity; equal are those of equal amount.
#[derive(Clone, Copy, Debug)]
pub struct Decimal(Quantity);

impl Decimal {
    pub fn parse(text: &str) -> Result<Self, String> {
        Quantity::parse(text).map(Self).map_err(|error| error.to_string())
    }

    pub fn compare(self, other: Self) -> Ordering {
        self.0.nanos().cmp(&other.0.nanos())
    }

    pub fn sign(self) -> i64 {
        self.0.nanos().signum() as i64
    }

    /// The whole number that it is.
    pub fn integer(self) -> Option<i64> {
        let nanos = self.0.nanos();
        (nanos % NANOS == 0).then(|| i64::try_from(nanos / NANOS).ok()).flatten()
    }

    pub fn float(self) -> f64 {
        self.0.nanos() as f64 / NANOS as f64
    }

    pub fn plus(self, other: Self) -> Option<Self> {
        Some(Self(self.0.with_nanos(self.0.nanos().checked_add(other.0.nanos())?)))
    }

    pub fn minus(self, other: Self) -> Option<Self> {
        Some(Self(self.0.with_nanos(self.0.nanos().checked_sub(other.0.nanos())?)))
    }

    /// A whole number as a quantity written like this one.
    pub fn like(self, whole: i64) -> Self {
        Self(self.0.with_nanos(i128::from(whole) * NANOS))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.compare(*other) == Ordering::Equal
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
