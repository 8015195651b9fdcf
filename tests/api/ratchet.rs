//! How many recorded steps match in each category, as found and as they must stay.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Numbers of steps that match, by category.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ratchet(BTreeMap<String, u64>);

impl Ratchet {
    /// What the replayer's report says.
    pub fn of(report: &Value) -> Self {
        let totals = report["totals"].as_object().expect("the report has totals");
        let categories = totals.iter().filter(|(name, _)| *name != "TOTAL");
        Self(categories.map(|(name, counts)| (name.clone(), counts["matched"].as_u64().unwrap_or(0))).collect())
    }

    fn file() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/api/ratchet.json")
    }

    /// What the repository says.
    pub fn read() -> Self {
        let text = std::fs::read_to_string(Self::file()).expect("tests/api/ratchet.json");
        Self(serde_json::from_str(&text).expect("categories and numbers"))
    }

    pub fn write(&self) {
        let text = serde_json::to_string_pretty(&self.0).expect("categories and numbers");
        std::fs::write(Self::file(), text + "\n").expect("tests/api/ratchet.json");
    }

    /// The larger of each number.
    pub fn raised_by(&self, found: &Self) -> Self {
        let mut raised = self.0.clone();
        for (category, count) in &found.0 {
            let kept = raised.entry(category.clone()).or_default();
            *kept = (*kept).max(*count);
        }
        Self(raised)
    }

    /// Categories where fewer match than must.
    pub fn fallen_below(&self, kept: &Self) -> Vec<String> {
        let fell = |(category, count): &(&String, &u64)| self.0.get(*category).copied().unwrap_or(0) < **count;
        kept.0.iter().filter(fell).map(|(category, _)| category.clone()).collect()
    }

    /// Found and kept, one category a line, and their difference.
    pub fn table(&self, kept: &Self) -> String {
        let mut table = String::new();
        for (category, count) in &self.0 {
            let floor = kept.0.get(category).copied().unwrap_or(0);
            let difference = i128::from(*count) - i128::from(floor);
            writeln!(table, "{category:<16} {count:>5} match, {floor:>5} must  {difference:+}")
                .expect("a string grows");
        }
        table
    }
}

/// The steps that do not match in these categories, with the replayer's first difference.
pub fn explain(fallen: &[String], report: &Value) -> String {
    let mut text = format!("fewer steps match than tests/api/ratchet.json says in: {}\n", fallen.join(", "));
    let of_fallen = |scenario: &&Value| fallen.iter().any(|category| scenario["category"] == **category);
    for scenario in report["results"].as_array().into_iter().flatten().filter(of_fallen) {
        for step in scenario["steps"].as_array().into_iter().flatten().filter(|step| step["ok"] == false) {
            writeln!(text, "  {} {}: {}", scenario["scenario"], step["id"], step["diff"][0]).expect("a string grows");
        }
    }
    text
}

#[test]
fn the_ratchet_turns_one_way() {
    let of = |pairs: &[(&str, u64)]| Ratchet(pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect());
    let (kept, found) = (of(&[("a", 5), ("b", 3)]), of(&[("a", 4), ("b", 6), ("c", 1)]));
    assert_eq!(found.fallen_below(&kept), ["a"]);
    assert_eq!(kept.raised_by(&found), of(&[("a", 5), ("b", 6), ("c", 1)]));
    assert!(of(&[]).fallen_below(&kept).len() == 2, "a category that is gone has fallen");
}
