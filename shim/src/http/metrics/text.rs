//! OpenMetrics text, which the library writes, as the Prometheus text that kube-apiserver serves.

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// There a counter is described under the name of its samples, help has no full stop, and nothing marks the end.
pub(super) fn prometheus(open: &str) -> String {
    let mut out = String::with_capacity(open.len() + open.len() / 16);
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            // Written once the type is known, which follows.
            help = Some((name, text.strip_suffix('.').unwrap_or(text)));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if line != "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_described_under_the_name_of_its_samples() {
        let open =
            "# HELP a Counts.\n# TYPE a counter\na_total{x=\"# EOF\"} 1\n# HELP b Shows.\n# TYPE b gauge\nb 2\n# EOF\n";
        let wanted = "# HELP a_total Counts\n# TYPE a_total counter\na_total{x=\"# EOF\"} 1\n# HELP b Shows\n# TYPE b gauge\nb 2\n";
        assert_eq!(prometheus(open), wanted);
    }
}
