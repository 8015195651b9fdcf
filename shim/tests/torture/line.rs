//! What a child tells its parent, a line each.

use std::fmt;
use std::str::FromStr;

/// One line of a child's output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// The store is open at that revision.
    Ready(u64),
    /// A write of a key of its own was acknowledged, durably or lazily.
    Wrote { revision: u64, key: String, durable: bool },
    /// An increment of the shared counter to that number was acknowledged.
    Counted { revision: u64, to: u64 },
    /// A watch saw a change.
    Saw { watch: usize, revision: u64, key: String },
    /// A watch has seen everything up to there.
    Passed { watch: usize, revision: u64 },
    /// A watch could not be resumed.
    Refused { watch: usize },
    /// A write failed.
    Failed(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(revision) => write!(f, "ready {revision}"),
            Self::Wrote { revision, key, durable } => write!(f, "wrote {revision} {key} {durable}"),
            Self::Counted { revision, to } => write!(f, "counted {revision} {to}"),
            Self::Saw { watch, revision, key } => write!(f, "saw {watch} {revision} {key}"),
            Self::Passed { watch, revision } => write!(f, "passed {watch} {revision}"),
            Self::Refused { watch } => write!(f, "refused {watch}"),
            Self::Failed(why) => write!(f, "failed {why}"),
        }
    }
}

/// The line is not whole: its writer was killed in the middle of it.
#[derive(Debug)]
pub struct Broken;

impl FromStr for Line {
    type Err = Broken;

    fn from_str(text: &str) -> Result<Self, Broken> {
        let (word, rest) = text.split_once(' ').ok_or(Broken)?;
        let mut words = rest.split(' ');
        let mut next = || words.next().ok_or(Broken);
        let number = |text: &str| text.parse::<u64>().map_err(|_| Broken);
        Ok(match word {
            "ready" => Self::Ready(number(next()?)?),
            "wrote" => Self::Wrote { revision: number(next()?)?, key: next()?.to_owned(), durable: next()? == "true" },
            "counted" => Self::Counted { revision: number(next()?)?, to: number(next()?)? },
            "saw" => {
                let watch = next()?.parse().map_err(|_| Broken)?;
                Self::Saw { watch, revision: number(next()?)?, key: next()?.to_owned() }
            }
            "passed" => {
                let watch = next()?.parse().map_err(|_| Broken)?;
                Self::Passed { watch, revision: number(next()?)? }
            }
            "refused" => Self::Refused { watch: next()?.parse().map_err(|_| Broken)? },
            "failed" => Self::Failed(rest.to_owned()),
            _ => return Err(Broken),
        })
    }
}
