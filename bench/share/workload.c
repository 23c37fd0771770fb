// What the bench of shared folders does in the guest: `workload FOLDER`, with `big`, a file of 64 MiB, and `tree` in it.
// Prints a line for each figure: its name, operations or bytes, and nanoseconds.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 4096, LARGE = 1 << 20, BIG = 64 << 20, SMALL_COUNT = 2000 };

static char buffer[LARGE] __attribute__((aligned(4096)));
static uint64_t began;

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void fail(const char* what) {
  printf("failed %s: %s\n", what, strerror(errno));
  exit(1);
}

static void begin(void) { began = now(); }

static void end(const char* figure, long count) {
  const uint64_t taken = now() - began;
  printf("figure %s %ld %llu\n", figure, count, (unsigned long long)taken);
  fflush(stdout);
}

static int open_it(const char* name, int flags) {
  const int fd = open(name, flags, 0644);
  if (fd < 0) fail(name);
  return fd;
}

static void check(ssize_t got, size_t wanted, const char* what) {
  if (got != (ssize_t)wanted) fail(what);
}

// Places in the file that follow no order, the same each time.
static off_t place(int i) { return (off_t)(((uint64_t)i * 7919 * 31 + 17) % (BIG / SMALL)) * SMALL; }

static long walk(const char* path) {
  DIR* folder = opendir(path);
  if (folder == NULL) fail(path);
  long count = 0;
  for (struct dirent* entry; (entry = readdir(folder)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    char name[4096];
    snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
    struct stat status;
    if (lstat(name, &status) != 0) fail(name);
    count++;
    if (S_ISDIR(status.st_mode)) count += walk(name);
  }
  closedir(folder);
  return count;
}

int main(int argc, char** argv) {
  if (argc != 2 || chdir(argv[1]) != 0) fail("chdir");

  begin();
  end("walk", walk("tree"));

  int fd = open_it("big", O_RDONLY);
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  begin();
  for (int i = 0; i < SMALL_COUNT; i++) check(pread(fd, buffer, SMALL, place(i)), SMALL, "pread");
  end("read-4k-random", SMALL_COUNT);
  close(fd);

  fd = open_it("big", O_RDONLY);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  begin();
  for (int i = 0; i < 4 * SMALL_COUNT; i++) check(read(fd, buffer, SMALL), SMALL, "read");
  end("read-4k", 4 * SMALL_COUNT);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  lseek(fd, 0, SEEK_SET);
  begin();
  for (int i = 0; i < BIG / LARGE; i++) check(read(fd, buffer, LARGE), LARGE, "read");
  end("read-1m", BIG / LARGE);
  close(fd);

  fd = open_it("written", O_WRONLY | O_CREAT | O_TRUNC);
  begin();
  for (int i = 0; i < SMALL_COUNT; i++) check(write(fd, buffer, SMALL), SMALL, "write");
  end("write-4k", SMALL_COUNT);
  close(fd);

  fd = open_it("written", O_WRONLY | O_TRUNC);
  begin();
  for (int i = 0; i < BIG / LARGE; i++) check(write(fd, buffer, LARGE), LARGE, "write");
  end("write-1m", BIG / LARGE);
  close(fd);
  unlink("written");

  begin();
  for (int i = 0; i < SMALL_COUNT / 2; i++) {
    char name[32];
    snprintf(name, sizeof name, "made-%d", i);
    fd = open_it(name, O_WRONLY | O_CREAT | O_EXCL);
    close(fd);
    unlink(name);
  }
  end("create-unlink", SMALL_COUNT / 2);
  puts("done");
  return 0;
}
