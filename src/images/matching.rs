//! Does a pattern of a credential provider mean an image? (`pkg/credentialprovider/keyring.go`, `URLsMatchStr`.)

/// Hosts match label by label, `*` standing for anything inside one; ports are the same; the image's path begins with
/// the pattern's.
pub(super) fn matches(pattern: &str, image: &str) -> bool {
    let (pattern, image) = (parts(strip_scheme(pattern)), parts(image));
    let labels = |host: &str| host.split('.').count();
    let hosts = || pattern.host.split('.').zip(image.host.split('.'));
    pattern.port == image.port
        && labels(pattern.host) == labels(image.host)
        && image.path.starts_with(pattern.path)
        && hosts().all(|(glob, label)| glob_matches(glob, label))
}

/// A response may name an image as a URL.
fn strip_scheme(pattern: &str) -> &str {
    pattern.split_once("://").map_or(pattern, |(_, rest)| rest)
}

struct Parts<'a> {
    host: &'a str,
    port: Option<&'a str>,
    /// From its slash on.
    path: &'a str,
}

fn parts(url: &str) -> Parts<'_> {
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let (host, port) = host.rsplit_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
    // `host/` means what `host` does.
    Parts { host, port, path: if path == "/" { "" } else { path } }
}

/// `*` stands for any run of characters.
fn glob_matches(glob: &str, text: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut rest = rest;
    while let Some((middle, after)) = rest.split_once('*') {
        let Some(at) = text.find(middle) else { return false };
        text = &text[at + middle.len()..];
        rest = after;
    }
    text.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of upstream's `TestURLsMatch` and their like.
    #[test]
    fn patterns_match_as_in_the_kubelet() {
        for (pattern, image, expected) in [
            ("*.kubernetes.io", "foo.kubernetes.io", true),
            ("*.kubernetes.io", "kubernetes.io", false),
            ("*.kubernetes.io", "foo.bar.kubernetes.io", false),
            ("prefix.*.io", "prefix.kubernetes.io", true),
            ("prefix.*.io", "kubernetes.io", false),
            ("prefix*.kubernetes.io", "prefix-suffix.kubernetes.io", true),
            ("*fix.kubernetes.io", "suffix.kubernetes.io", true),
            ("*.*.kubernetes.io", "foo.bar.kubernetes.io", true),
            ("*.kubernetes.io/path", "foo.kubernetes.io/path/to/image", true),
            ("*.kubernetes.io/path", "foo.kubernetes.io/other", false),
            ("*.kubernetes.io:443", "foo.kubernetes.io:443", true),
            ("*.kubernetes.io:443", "foo.kubernetes.io", false),
            ("*.kubernetes.io", "foo.kubernetes.io:443", false),
            ("https://registry.io/", "registry.io/team/app", true),
            ("a*b*c.io", "axxbyyc.io", true),
            ("a*b*c.io", "axxc.io", false),
            ("*", "registry.io", false),
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
    }
}
