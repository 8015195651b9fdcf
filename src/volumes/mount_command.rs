//! `mount(8)`, which knows the helpers of file systems, and what makes a disk ready for it; the words are those of
//! `k8s.io/mount-utils`. All of it blocks.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, ExitStatus, Output};
use std::sync::{Mutex, PoisonError};

/// What `blkid` says of a disk on which it finds nothing.
const BLKID_NOTHING: i32 = 2;
/// Of `fsck`: errors that it could not correct.
const FSCK_UNCORRECTED: i32 = 4;

/// Mounts; the options are joined, each once and in order (`JoinMountOptions`).
pub(super) fn mount(fs_type: &str, what: &str, target: &Path, options: &[String]) -> Result<(), String> {
    let arguments = arguments(fs_type, what, target, options);
    let why = match Command::new("mount").args(&arguments).output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => (exit(output.status), said(&output)),
        Err(error) => (error.to_string(), String::new()),
    };
    let arguments = arguments.join(" ");
    Err(format!("mount failed: {}\nMounting command: mount\nMounting arguments: {arguments}\nOutput: {}", why.0, why.1))
}

fn arguments(fs_type: &str, what: &str, target: &Path, options: &[String]) -> Vec<String> {
    let mut options = options.to_vec();
    options.sort_unstable();
    options.dedup();
    let mut all = vec!["-t".to_owned(), fs_type.to_owned()];
    if !options.is_empty() {
        all.extend(["-o".to_owned(), options.join(",")]);
    }
    all.extend([what.to_owned(), target.display().to_string()]);
    all
}

/// Mounts a disk: one that holds nothing gets a file system first, one that has a file system is checked
/// (`FormatAndMount`).
pub(super) fn mount_disk(fs_type: &str, device: &Path, target: &Path, options: &[String]) -> Result<(), String> {
    // Two pods of one disk must not both find it empty.
    static LOOKING: Mutex<()> = Mutex::new(());
    let _alone = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
    let name = device.display().to_string();
    let read_only = options.iter().any(|option| option == "ro");
    let format = format(device).map_err(|why| format!("failed to get disk format of disk {name}: {why}"))?;
    match format {
        None if read_only => {
            return Err(format!("cannot mount unformatted disk {name} as we are manipulating it in read-only mode"));
        }
        None => make_file_system(fs_type, &name).map_err(|(code, output)| {
            let target = target.display().to_string();
            let options = options.join(",");
            format!(
                "format of disk {name:?} failed: type:({fs_type:?}) target:({target:?}) options:({options:?}) \
                 errcode:({code}) output:({output}) "
            )
        })?,
        Some(_) if read_only => {}
        Some(_) => check_file_system(&name)?,
    }
    let options: Vec<String> = options.iter().cloned().chain(["defaults".to_owned()]).collect();
    mount(fs_type, &name, target, &options)
}

/// What is on the disk; `None`: nothing.
fn format(device: &Path) -> Result<Option<String>, String> {
    let asked = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export"];
    let output = Command::new("blkid").args(asked).arg(device).output().map_err(|error| error.to_string())?;
    match output.status.code() {
        Some(0) => {}
        Some(BLKID_NOTHING) => return Ok(None),
        _ => return Err(exit(output.status)),
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match (value("TYPE"), value("PTTYPE")) {
        (_, Some(_)) => Ok(Some("unknown data, probably partitions".to_owned())),
        (found, None) => Ok(found.map(str::to_owned)),
    }
}

fn make_file_system(fs_type: &str, device: &str) -> Result<(), (String, String)> {
    let options: &[&str] = match fs_type {
        "ext3" | "ext4" => &["-F", "-m0"],
        "xfs" => &["-f"],
        _ => &[],
    };
    tracing::info!(device, fs_type, "disk holds nothing: making a file system");
    let made = Command::new(format!("mkfs.{fs_type}")).args(options).arg(device).output();
    match made {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err((exit(output.status), said(&output))),
        Err(error) => Err((error.to_string(), String::new())),
    }
}

/// What cannot be checked is mounted as it is.
fn check_file_system(device: &str) -> Result<(), String> {
    let output = match Command::new("fsck").args(["-a", device]).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        output => output.map_err(|error| format!("fsck: {error}"))?,
    };
    match output.status.code() {
        Some(FSCK_UNCORRECTED) => {
            let said = said(&output);
            Err(format!("'fsck' found errors on device {device} but could not correct them: {said}"))
        }
        code => {
            tracing::debug!(device, ?code, "file system checked");
            Ok(())
        }
    }
}

/// As Go prints it.
fn exit(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit status {code}"),
        None => status.to_string(),
    }
}

fn said(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::mounts;

    #[test]
    fn options_are_each_given_once_and_a_failure_shows_the_command_and_what_it_said() {
        let options = ["ro", "nfsvers=4", "hard", "ro"].map(str::to_owned);
        assert_eq!(
            arguments("nfs", "s:/e", Path::new("/t"), &options).join(" "),
            "-t nfs -o hard,nfsvers=4,ro s:/e /t"
        );
        assert_eq!(arguments("nfs", "s:/e", Path::new("/t"), &[]).join(" "), "-t nfs s:/e /t");
        let why = mount("ext4", "/no/such/disk", Path::new("/no/such/place"), &[]).unwrap_err();
        let start = "mount failed: exit status 32\nMounting command: mount\nMounting arguments: -t ext4 /no/such/disk /no/such/place\nOutput: mount: ";
        // Without privilege mount(8) ends with 1.
        assert!(why.starts_with(start) || why.starts_with("mount failed: exit status 1\n"), "{why}");
    }

    #[test]
    fn an_empty_disk_gets_a_file_system_once_and_keeps_what_is_written_to_it() {
        let tools = ["mkfs.ext4", "blkid", "losetup"];
        let has_tools = tools.iter().all(|tool| Command::new(tool).arg("-V").output().is_ok());
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() || !has_tools {
            eprintln!("skipped: needs root, loop devices and mkfs.ext4");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let (file, target) = (root.path().join("file"), root.path().join("target"));
        std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
        std::fs::create_dir(&target).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let device = Path::new(&device);
        let read_only = mount_disk("ext4", device, &target, &["ro".to_owned()]);
        let mut shown = Vec::new();
        for text in ["first", "second"] {
            let mounted = mount_disk("ext4", device, &target, &["noatime".to_owned()]);
            shown.push(
                mounted.and_then(|()| std::fs::read_to_string(target.join("kept")).map_err(|e| e.kind().to_string())),
            );
            std::fs::write(target.join("kept"), text).unwrap();
            mounts::unmount(&target).unwrap();
        }
        let found = format(device);
        Command::new("losetup").arg("--detach").arg(device).status().unwrap();
        let why =
            format!("cannot mount unformatted disk {} as we are manipulating it in read-only mode", device.display());
        assert_eq!(read_only, Err(why));
        assert_eq!(shown, [Err("entity not found".to_owned()), Ok("first".to_owned())]);
        assert_eq!(found, Ok(Some("ext4".to_owned())));
    }
}
