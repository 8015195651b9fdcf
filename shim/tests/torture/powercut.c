// Preloaded into a process: keeps of each file under $POWERCUT_FROM what it held when it was last synced, in
// $POWERCUT_TO. That directory is what a disk may hold after a power cut. From the sync number $POWERCUT_EIO on, syncs
// fail as a broken disk's do.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int syncs;

// Where the file of that path is kept; 0 when it is none of ours.
static int kept(const char *path, char *to, size_t size) {
    const char *from = getenv("POWERCUT_FROM"), *dir = getenv("POWERCUT_TO");
    size_t length = from ? strlen(from) : 0;
    if (!length || !dir || strncmp(path, from, length) || path[length] != '/') return 0;
    return snprintf(to, size, "%s/%s", dir, path + length + 1) < (int)size;
}

static int keep(int fd) {
    char link[64], path[4096], to[4096], part[4112], buffer[65536];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!kept(path, to, sizeof to)) return 0;
    const char *eio = getenv("POWERCUT_EIO");
    if (eio && __atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST) >= atoi(eio)) {
        errno = EIO;
        return -1;
    }
    struct stat status;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode)) return 0;
    snprintf(part, sizeof part, "%s.part", to);
    int in = open(path, O_RDONLY | O_CLOEXEC), out = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int bad = in < 0 || out < 0;
    for (ssize_t n; !bad && (n = read(in, buffer, sizeof buffer)) != 0;)
        bad = n < 0 || write(out, buffer, n) != n;
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    if (bad || rename(part, to)) {
        errno = EIO;
        return -1;
    }
    return 0;
}

int fsync(int fd) { return keep(fd); }

int fdatasync(int fd) { return keep(fd); }

int unlink(const char *path) {
    char to[4096];
    if (kept(path, to, sizeof to)) syscall(SYS_unlinkat, AT_FDCWD, to, 0);
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
