//! Of which images on the node a pod has to show that it may pull them (`imagePullCredentialsVerificationPolicy`).

use node_config::kubelet::KubeletConfiguration;

/// The node's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Of none.
    Never,
    /// Of those that were pulled here.
    Pulled,
    /// Of all but these: repositories, or with `/*` all below a registry or a folder of it.
    Unlisted(Vec<String>),
    Always,
}

impl Verification {
    /// `None`: the feature is off, and no pulls are recorded.
    pub fn new(kubelet: &KubeletConfiguration) -> Option<Self> {
        Some(match kubelet.image_pull_credentials_verification_policy.as_str() {
            "NeverVerify" => Self::Never,
            "NeverVerifyAllowlistedImages" => Self::Unlisted(kubelet.preloaded_images_verification_allowlist.clone()),
            "AlwaysVerify" => Self::Always,
            "NeverVerifyPreloadedImages" => Self::Pulled,
            // Validation lets no other in, and this one only where the feature is off.
            _ => return None,
        })
    }

    /// Whether everyone may use the image; `repository` is its name in full, without tag and digest.
    pub(super) fn exempts(&self, repository: &str, was_pulled_here: bool) -> bool {
        let means = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => repository.starts_with(prefix),
            None => repository == pattern,
        };
        match self {
            Self::Never => true,
            Self::Pulled => !was_pulled_here,
            Self::Unlisted(patterns) => patterns.iter().any(means),
            Self::Always => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_exempts_its_images() {
        let with = |policy: &str| {
            let mut kubelet = KubeletConfiguration::defaulted();
            kubelet.image_pull_credentials_verification_policy = policy.to_owned();
            kubelet.preloaded_images_verification_allowlist = vec!["r.io/team/app".into(), "r.io/base/*".into()];
            Verification::new(&kubelet)
        };
        // Pulled here and listed, pulled, listed, neither.
        for (policy, expected) in [
            ("NeverVerify", [true, true, true, true]),
            ("NeverVerifyPreloadedImages", [false, false, true, true]),
            ("NeverVerifyAllowlistedImages", [true, false, true, false]),
            ("AlwaysVerify", [false, false, false, false]),
        ] {
            let verification = with(policy).unwrap();
            for listed in ["r.io/team/app", "r.io/base/a/b"] {
                let found = [(listed, true), ("r.io/team/apple", true), (listed, false), ("r.io/basement/a", false)];
                assert_eq!(
                    found.map(|(name, pulled)| verification.exempts(name, pulled)),
                    expected,
                    "{policy} {listed}"
                );
            }
        }
        assert_eq!(with(""), None);
        let default = Verification::new(&KubeletConfiguration::defaulted());
        assert_eq!(default, Some(Verification::Pulled));
    }
}
