//! The pause process of a pod sandbox: holds the namespaces, reaps orphans, exits on SIGTERM and SIGINT.
//!
//! No libc and no std, so that the image is one small static file. Signals are blocked and waited for: a blocked
//! signal is queued also for process 1 of a PID namespace, whose default actions the kernel otherwise ignores.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const EXIT_GROUP: usize = 231;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
}

const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;
const SIGCHLD: u32 = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const ANY_CHILD: usize = usize::MAX;
const SIGSET_BYTES: usize = 8;

// The kernel enters with the stack pointer on `argc`; the ABI wants a call on a 16-byte boundary.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {pause}", pause = sym pause);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "bl {pause}", pause = sym pause);

/// # Safety
/// The arguments must be valid for that system call.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, args: [usize; 4]) -> isize {
    let result: isize;
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// The arguments must be valid for that system call.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, args: [usize; 4]) -> isize {
    let result: isize;
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], options(nostack));
    }
    result
}

extern "C" fn pause() -> ! {
    let wanted: u64 = [SIGINT, SIGTERM, SIGCHLD].iter().fold(0, |set, signal| set | 1 << (signal - 1));
    let set = &raw const wanted as usize;
    unsafe { syscall(number::RT_SIGPROCMASK, [SIG_BLOCK, set, 0, SIGSET_BYTES]) };
    loop {
        match unsafe { syscall(number::RT_SIGTIMEDWAIT, [set, 0, 0, SIGSET_BYTES]) } as u32 {
            SIGINT | SIGTERM => exit(0),
            // One SIGCHLD may stand for many children.
            SIGCHLD => while unsafe { syscall(number::WAIT4, [ANY_CHILD, 0, WNOHANG, 0]) } > 0 {},
            // EINTR after SIGSTOP and SIGCONT.
            _ => {}
        }
    }
}

fn exit(code: usize) -> ! {
    loop {
        unsafe { syscall(number::EXIT_GROUP, [code, 0, 0, 0]) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(2)
}
