//! Real files: options as a table, following over rotation.

use super::*;
use futures::{StreamExt, TryStreamExt};
use std::fs;
use std::io::Write;
use std::time::Duration;

const LOG: &str = "\
2026-01-01T00:00:01.000000000Z stdout F one
2026-01-01T00:00:02.500000000Z stderr F two
2026-01-01T00:00:03Z stdout P thr
2026-01-01T00:00:03.1Z stdout F ee
2026-01-01T00:00:04Z stdout F four
";

async fn text(log: &str, query: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    fs::write(&path, log).unwrap();
    let get = |name: &str| query.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let options = LogOptions::from_query(get).unwrap();
    let chunks: Vec<Bytes> = stream(&path, options, std::future::ready(())).try_collect().await.unwrap();
    String::from_utf8(chunks.concat()).unwrap()
}

#[tokio::test]
async fn options_choose_what_is_shown() {
    for (query, expected) in [
        (&[][..], "one\ntwo\nthree\nfour\n"),
        (&[("stream", "Stderr")], "two\n"),
        (&[("tailLines", "1")], "four\n"),
        (&[("tailLines", "2")], "ee\nfour\n"),
        (&[("tailLines", "0")], ""),
        (&[("tailLines", "99")], "one\ntwo\nthree\nfour\n"),
        (&[("limitBytes", "6")], "one\ntw"),
        (&[("sinceTime", "2026-01-01T00:00:03Z")], "three\nfour\n"),
        (&[("sinceSeconds", "1")], ""),
        (
            &[("timestamps", "true")],
            "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02.5Z two\n2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z four\n",
        ),
        // The container has ended: following shows what is there and ends.
        (&[("follow", "true"), ("tailLines", "1")], "four\n"),
        (&[("follow", "true"), ("tailLines", "0")], ""),
    ] {
        assert_eq!(text(LOG, query).await, expected, "{query:?}");
    }
}

#[tokio::test]
async fn an_unfinished_last_line_is_shown_and_nonsense_is_left_out() {
    let log = "nonsense\n2026-01-01T00:00:01Z stdout F whole\n2026-01-01T00:00:02Z stdout F half";
    assert_eq!(text(log, &[]).await, "whole\nhalf");
    assert_eq!(text("", &[]).await, "");
}

#[tokio::test]
async fn long_logs_are_read_whole_and_tailed_across_blocks() {
    let log: String = (0..20_000).map(|n| format!("2026-01-01T00:00:01Z stdout F line {n}\n")).collect();
    assert_eq!(text(&log, &[]).await.lines().count(), 20_000);
    let tail = text(&log, &[("tailLines", "5000")]).await;
    assert_eq!((tail.lines().count(), tail.lines().next()), (5000, Some("line 15000")));
}

#[test]
fn bad_queries_are_answered_as_the_kubelet_answers_them() {
    for (name, value, error) in [
        ("tailLines", "-1", INVALID),
        ("tailLines", "x", UNREADABLE),
        ("limitBytes", "0", INVALID),
        ("sinceSeconds", "0", INVALID),
        ("sinceTime", "noon", UNREADABLE),
        ("follow", "maybe", UNREADABLE),
        ("stream", "both", INVALID),
    ] {
        let result = LogOptions::from_query(|asked| (asked == name).then_some(value));
        assert_eq!(result, Err(error.to_owned()), "{name}={value}");
    }
}

#[tokio::test]
async fn following_goes_on_over_rotation_until_the_container_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let append = |text: &str| {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    append("2026-01-01T00:00:01Z stdout F one\n");
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let options = LogOptions { follow: true, ..Default::default() };
    let mut log = stream(&path, options, ended.map(drop)).boxed();
    let mut expect = async |text: &str| {
        let chunk = tokio::time::timeout(Duration::from_secs(10), log.next()).await.expect("text in time");
        assert_eq!(chunk.map(Result::unwrap), (!text.is_empty()).then(|| Bytes::from(text.to_owned())));
    };
    expect("one\n").await;
    append("2026-01-01T00:00:02Z stdout F two\n");
    expect("two\n").await;
    append("2026-01-01T00:00:03Z stdout F old\n");
    fs::rename(&path, folder.path().join("0.log.20260101")).unwrap();
    append("2026-01-01T00:00:04Z stdout F new\n");
    expect("old\n").await;
    expect("new\n").await;
    append("2026-01-01T00:00:05Z stdout F last\n");
    drop(end);
    expect("last\n").await;
    expect("").await;
}

#[tokio::test]
async fn a_missing_file_is_told_as_the_kubelet_tells_it() {
    let mut log = stream("/nowhere/0.log", LogOptions::default(), std::future::pending()).boxed();
    let error = log.next().await.unwrap().unwrap_err().to_string();
    assert_eq!(
        error,
        "failed to try resolving symlinks in path \"/nowhere/0.log\": lstat /nowhere/0.log: no such file or directory"
    );
}
