//! Who listens on a port: for the message that says it is taken.

use std::fs;

/// Name and pid of the process that listens on that TCP port, if `/proc` shows it.
pub(super) fn listener(port: u16) -> Option<String> {
    let inode =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|file| inode_of(&fs::read_to_string(file).ok()?, port))?;
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(open) = fs::read_dir(entry.path().join("fd")) else { continue };
        if open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// The inode of the listening socket in a `/proc/net/tcp` table.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let same = u16::from_str_radix(hex, 16).ok()? == port && *fields.get(3)? == LISTEN;
        if same { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_listening_socket_of_a_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:192B 00000000:0000 01 0:0 0:0 0 0 0 111\n   1: 00000000:192B 00000000:0000 0A 0:0 00:0 0 0 0 4242\n";
        assert_eq!(super::inode_of(table, 6443), Some(4242));
        assert_eq!(super::inode_of(table, 80), None);
    }
}
