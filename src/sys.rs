//! What only the C library and the kernel can be told of this process' memory: the one file with `unsafe`.
#![allow(unsafe_code)]

/// Bounds the heaps that the threads of the process share; to be called before they begin. glibc makes up to eight a
/// processor, and each keeps what it once had: after a burst of pods that is half of the memory. No effect elsewhere.
pub fn bound_heaps(most: usize) {
    #[cfg(target_env = "gnu")]
    if let Ok(most) = libc::c_int::try_from(most) {
        // SAFETY: `mallopt` takes two numbers and may be called at any time; one that it does not accept changes nothing.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
}

/// Gives back what is not needed: free parts of the heaps, and the program's own code and constants, of which most were
/// used once, at the start. What is used again is mapped again from the page cache, 64 KiB a microsecond.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, locks the heaps one by one, and only touches what is free.
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    for (start, length) in unchanged(&maps, &program.to_string_lossy()) {
        // SAFETY: the range is a mapping of the program's file that cannot be written and never was (linkers refuse
        // relocations in code, and put what they relocate elsewhere apart), so that all in it can be read again.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Address and length of the program's mappings that are as in its file, from `/proc/self/maps`.
fn unchanged(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let range = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let path = rest.split_ascii_whitespace().nth(4)?;
        // Code, and the constants that lie with the file's head; what the linker relocates begins further on.
        let as_in_file = rest.starts_with("r-xp ") || rest.starts_with("r--p 00000000 ");
        if !as_in_file || path != program {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        Some((start, usize::from_str_radix(end, 16).ok()?.checked_sub(start)?))
    };
    maps.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_changed_of_the_program_itself_is_given_back() {
        let maps = "559bc18e3000-559bc204d000 r--p 00000000 fe:00 131 /usr/bin/skiff\n\
                    559bc204d000-559bc4625000 r-xp 00769000 fe:00 131 /usr/bin/skiff\n\
                    559bc4625000-559bc474a000 r--p 02d40000 fe:00 131 /usr/bin/skiff\n\
                    7f1200000000-7f1200021000 r-xp 00000000 fe:00 7 /usr/lib/libc.so.6\n\
                    7f1300000000-7f1300021000 rw-p 00000000 00:00 0\n";
        assert_eq!(unchanged(maps, "/usr/bin/skiff"), [(0x559b_c18e_3000, 0x76_a000), (0x559b_c204_d000, 0x25d_8000)]);
        assert_eq!(unchanged(maps, ""), []);
        assert_eq!(unchanged(maps, "/usr/bin/skiff (deleted)"), [], "a program that was replaced is not looked for");
    }

    #[test]
    fn a_program_that_gave_its_memory_back_goes_on() {
        let kept: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        bound_heaps(2);
        give_back_memory();
        assert_eq!(kept.iter().map(String::len).sum::<usize>(), 38_890);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        assert!(!unchanged(&maps, &program.to_string_lossy()).is_empty(), "nothing to give back:\n{maps}");
    }
}
