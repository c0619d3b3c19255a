/* Makes system calls of the program fail or take time, as environment variables say. LD_PRELOAD loads it.
 *
 * SHIM_FLOCK=N             flock fails with error number N
 * SHIM_FSYNC_FOLDER=N      fsync of a folder fails with error number N
 * SHIM_FSYNC_MILLIS=N      fsync of a file that ends in .tmp takes N ms more
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

int flock(int file, int operation) {
    if (number("SHIM_FLOCK")) {
        errno = (int)number("SHIM_FLOCK");
        return -1;
    }
    int (*real)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    return real(file, operation);
}

int fsync(int file) {
    struct stat status;
    if (number("SHIM_FSYNC_FOLDER") && fstat(file, &status) == 0 && S_ISDIR(status.st_mode)) {
        errno = (int)number("SHIM_FSYNC_FOLDER");
        return -1;
    }
    long millis = number("SHIM_FSYNC_MILLIS");
    if (millis) {
        char link[64], path[4096];
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        ssize_t len = readlink(link, path, sizeof path);
        if (len > 4 && memcmp(path + len - 4, ".tmp", 4) == 0) {
            struct timespec time = {millis / 1000, millis % 1000 * 1000000};
            nanosleep(&time, NULL);
        }
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return real(file);
}
