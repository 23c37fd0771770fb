"""What POSIX and Linux promise of a file system, tried as root in a folder of it: `python3 posix.py FOLDER`.

Prints a line for each check, `ok NAME` or `failed NAME: why`, and ends with their number. Each check has a folder of its
own. A check knows nothing of what file system it is on, so that the same results are to be had on any.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import stat
import sys
import time

CHECKS = []
USER = 1000
AT_FDCWD = -100
libc = ctypes.CDLL(None, use_errno=True)


def check(function):
    CHECKS.append(function)
    return function


def fails(code, function, *args, **named):
    try:
        function(*args, **named)
    except OSError as error:
        if error.errno != code:
            raise AssertionError(f"{errno.errorcode[error.errno]} instead of {errno.errorcode[code]}")
        return
    raise AssertionError(f"no {errno.errorcode[code]}")


def same(value, expected, what=""):
    if value != expected:
        raise AssertionError(f"{what} {value!r} instead of {expected!r}")


def write(path, data=b"", mode="wb"):
    with open(path, mode) as file:
        file.write(data)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def in_child(function, user=None):
    """Runs it in another process; its exception is ours."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            function()
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096)
    os.close(reader)
    os.waitpid(child, 0)
    if said:
        raise AssertionError(said.decode())


# ---- names


@check
def names_of_every_byte():
    for name in [bytes([c]) * 3 for c in range(1, 256) if c not in b"/."] + [b"...", b".a", b"a.", b" ", b"\xff\xfe"]:
        write(name)
        assert name in os.listdir(b"."), name
        os.unlink(name)


@check
def longest_name():
    write("n" * 255, b"x")
    same(read("n" * 255), b"x")
    fails(errno.ENAMETOOLONG, open, "n" * 256, "w")
    fails(errno.ENAMETOOLONG, os.mkdir, "n" * 256)


@check
def absent_name():
    fails(errno.ENOENT, os.stat, "absent")
    fails(errno.ENOENT, os.unlink, "absent")
    fails(errno.ENOENT, os.rename, "absent", "other")
    fails(errno.ENOENT, open, "absent/file", "w")


@check
def file_as_folder():
    write("file")
    fails(errno.ENOTDIR, os.stat, "file/name")
    fails(errno.ENOTDIR, os.listdir, "file")
    fails(errno.ENOTDIR, os.rmdir, "file")


@check
def folder_as_file():
    os.mkdir("folder")
    fails(errno.EISDIR, os.open, "folder", os.O_WRONLY)
    fails(errno.EISDIR, os.unlink, "folder")


@check
def exclusive_creation():
    descriptor = os.open("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(descriptor)
    fails(errno.EEXIST, os.open, "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.symlink("nowhere", "link")
    fails(errno.EEXIST, os.open, "link", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@check
def creation_opens_what_is_there():
    write("file", b"content")
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR, 0o600)
    same(os.read(descriptor, 10), b"content")
    os.close(descriptor)


@check
def exclusive_creation_has_one_winner():
    counts = []
    for round in range(5):
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                try:
                    os.open(f"race{round}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                    os._exit(1)
                except FileExistsError:
                    os._exit(0)
            children.append(child)
        counts.append(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
    same(counts, [1] * 5)


@check
def writing_through_a_link_makes_its_target():
    os.symlink("target", "link")
    write("link", b"x")
    same(read("target"), b"x")


# ---- folders


@check
def folder_links_count():
    os.mkdir("a")
    same(os.stat("a").st_nlink, 2)
    os.mkdir("a/b")
    same(os.stat("a").st_nlink, 3)
    os.rmdir("a/b")
    same(os.stat("a").st_nlink, 2)


@check
def folder_not_empty():
    os.mkdir("a")
    write("a/file")
    fails(errno.ENOTEMPTY, os.rmdir, "a")
    fails(errno.EEXIST, os.mkdir, "a")
    os.unlink("a/file")
    os.rmdir("a")


@check
def large_folder():
    os.mkdir("large")
    count = 10000
    for i in range(count):
        os.close(os.open(f"large/file-{i:05}", os.O_CREAT | os.O_WRONLY))
    names = os.listdir("large")
    same(len(names), count)
    same(len(set(names)), count)
    for i in range(0, count, 2):
        os.unlink(f"large/file-{i:05}")
    same(sorted(os.listdir("large")), [f"file-{i:05}" for i in range(1, count, 2)])
    shutil.rmtree("large")
    assert not os.path.exists("large")


@check
def removal_while_listing():
    for i in range(300):
        write(f"f{i}")
    seen = 0
    with os.scandir(".") as entries:
        for entry in entries:
            os.unlink(entry.name)
            seen += 1
    same(seen, 300)
    same(os.listdir("."), [])


@check
def entries_have_types():
    os.mkdir("folder")
    write("file")
    os.symlink("file", "link")
    os.mkfifo("fifo")
    kinds = {e.name: (e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False), e.is_symlink()) for e in os.scandir(".")}
    same(kinds["folder"], (True, False, False))
    same(kinds["file"], (False, True, False))
    same(kinds["link"], (False, False, True))
    same(kinds["fifo"], (False, False, False))


@check
def deep_folders():
    for _ in range(60):
        os.mkdir("d" * 60)
        os.chdir("d" * 60)
    write("bottom", b"deep")
    same(read("bottom"), b"deep")
    same(len(os.getcwd()) > 3600, True)


@check
def working_folder_removed():
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
    fails(errno.ENOENT, open, "file", "w")
    same(os.listdir("."), [])


@check
def folder_time_changes_with_its_names():
    os.utime(".", (1, 1))
    write("file")
    assert os.stat(".").st_mtime > 1000
    os.utime(".", (1, 1))
    os.unlink("file")
    assert os.stat(".").st_mtime > 1000


# ---- renames


@check
def rename_over_file():
    write("a", b"new")
    write("b", b"old")
    kept = open("b", "rb")
    os.rename("a", "b")
    same(read("b"), b"new")
    same(kept.read(), b"old")
    same(os.fstat(kept.fileno()).st_nlink, 0)
    fails(errno.ENOENT, os.stat, "a")


@check
def rename_of_same_file():
    write("a", b"x")
    os.link("a", "b")
    os.rename("a", "b")
    same(sorted(os.listdir(".")), ["a", "b"])


@check
def rename_folders():
    os.makedirs("a/sub")
    os.mkdir("b")
    os.rename("a", "b")
    same(os.listdir("b"), ["sub"])
    os.makedirs("c/full")
    fails(errno.ENOTEMPTY, os.rename, "b", "c")
    write("file")
    fails(errno.ENOTDIR, os.rename, "b", "file")
    fails(errno.EISDIR, os.rename, "file", "b")
    fails(errno.EINVAL, os.rename, "b", "b/sub/below")


@check
def rename_moves_open_folder():
    os.makedirs("a/x")
    os.mkdir("b")
    descriptor = os.open("a/x", os.O_RDONLY)
    os.rename("a/x", "b/y")
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    same(os.listdir("b/y"), ["file"])
    os.close(descriptor)
    same(os.path.samefile("b/y/..", "b"), True)


def renameat2(a, b, flags):
    if libc.renameat2(AT_FDCWD, a.encode(), AT_FDCWD, b.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@check
def rename_without_replacing():
    write("a", b"a")
    write("b", b"b")
    fails(errno.EEXIST, renameat2, "a", "b", 1)
    renameat2("a", "c", 1)
    same(read("c"), b"a")


@check
def rename_both_ways():
    write("a", b"a")
    os.mkdir("b")
    renameat2("a", "b", 2)
    same(read("b"), b"a")
    assert stat.S_ISDIR(os.stat("a").st_mode)


# ---- links


@check
def hard_links():
    write("a", b"content")
    os.link("a", "b")
    same(os.stat("a").st_ino, os.stat("b").st_ino)
    same(os.stat("a").st_nlink, 2)
    write("b", b"!", "ab")
    same(read("a"), b"content!")
    os.unlink("a")
    same(os.stat("b").st_nlink, 1)
    same(read("b"), b"content!")
    fails(errno.EEXIST, os.link, "b", "b")
    os.mkdir("folder")
    fails(errno.EPERM, os.link, "folder", "other")


@check
def hard_link_to_symlink():
    os.symlink("target", "link")
    os.link("link", "other", follow_symlinks=False)
    same(os.readlink("other"), "target")
    same(os.lstat("link").st_nlink, 2)


@check
def symlinks():
    os.symlink("target", "link")
    same(os.readlink("link"), "target")
    same(os.lstat("link").st_size, 6)
    assert stat.S_ISLNK(os.lstat("link").st_mode)
    fails(errno.ENOENT, os.stat, "link")
    os.symlink("x" * 1023, "long")
    same(os.readlink("long"), "x" * 1023)
    fails(errno.EINVAL, os.readlink, ".")
    os.symlink("loop", "loop")
    fails(errno.ELOOP, os.stat, "loop")
    fails(errno.EEXIST, os.symlink, "other", "link")


@check
def symlink_leads_out_as_the_guest_sees_it():
    os.symlink("/proc/version", "version")
    assert read("version").startswith(b"Linux")


@check
def not_following_symlinks():
    write("file")
    os.symlink("file", "link")
    fails(errno.ELOOP, os.open, "link", os.O_RDONLY | os.O_NOFOLLOW)


# ---- contents


@check
def offsets():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    same(os.pwrite(descriptor, b"end", 10), 3)
    same(os.pread(descriptor, 100, 0), b"\0" * 10 + b"end")
    same(os.pread(descriptor, 100, 13), b"")
    same(os.pread(descriptor, 100, 1000), b"")
    os.lseek(descriptor, 5, os.SEEK_SET)
    os.write(descriptor, b"mid")
    same(os.lseek(descriptor, 0, os.SEEK_CUR), 8)
    same(os.lseek(descriptor, 0, os.SEEK_END), 13)
    os.close(descriptor)


@check
def large_transfers():
    block = bytes(range(256)) * 4096
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    for i in range(8):
        same(os.pwrite(descriptor, block, i * len(block) + 1), len(block))
    os.close(descriptor)
    data = read("file")
    same(len(data), 8 * len(block) + 1)
    same(data == b"\0" + block * 8, True, "contents")


@check
def vectors():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    same(os.writev(descriptor, [b"a" * 5000, b"b", b"c" * 10000]), 15001)
    buffers = [bytearray(4999), bytearray(3), bytearray(20000)]
    same(os.preadv(descriptor, buffers, 0), 15001)
    same(bytes(buffers[1]), b"abc")
    os.close(descriptor)


@check
def appending():
    write("file", b"start")
    a = os.open("file", os.O_WRONLY | os.O_APPEND)
    b = os.open("file", os.O_WRONLY | os.O_APPEND)
    for i in range(50):
        os.write(a, b"a")
        os.write(b, b"b")
    same(read("file"), b"start" + b"ab" * 50)


@check
def appending_by_processes():
    def append(letter):
        descriptor = os.open("file", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for _ in range(100):
            os.write(descriptor, letter * 10)

    children = []
    for letter in (b"a", b"b", b"c"):
        child = os.fork()
        if child == 0:
            append(letter)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    data = read("file")
    same(len(data), 3000)
    for i in range(0, 3000, 10):
        same(len(set(data[i : i + 10])), 1)


@check
def truncation():
    write("file", b"0123456789")
    os.truncate("file", 4)
    same(read("file"), b"0123")
    os.truncate("file", 8)
    same(read("file"), b"0123\0\0\0\0")
    descriptor = os.open("file", os.O_RDWR)
    os.ftruncate(descriptor, 2)
    same(os.fstat(descriptor).st_size, 2)
    os.close(descriptor)
    descriptor = os.open("file", os.O_RDONLY)
    fails(errno.EINVAL, os.ftruncate, descriptor, 0)
    os.close(descriptor)
    os.close(os.open("file", os.O_WRONLY | os.O_TRUNC))
    same(os.stat("file").st_size, 0)


@check
def truncation_of_what_was_written_behind():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"x" * 10000)
    os.ftruncate(descriptor, 5000)
    os.ftruncate(descriptor, 10000)
    same(os.pread(descriptor, 10000, 0), b"x" * 5000 + b"\0" * 5000)
    os.close(descriptor)


@check
def unlinked_file_lives_on():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"before")
    os.unlink("file")
    same(os.listdir("."), [])
    os.write(descriptor, b" after")
    same(os.pread(descriptor, 100, 0), b"before after")
    same(os.fstat(descriptor).st_nlink, 0)
    os.fchmod(descriptor, 0o600)
    os.ftruncate(descriptor, 3)
    same(os.pread(descriptor, 100, 0), b"bef")
    os.close(descriptor)


@check
def modes_of_opening():
    write("file", b"x")
    reader = os.open("file", os.O_RDONLY)
    fails(errno.EBADF, os.write, reader, b"y")
    writer = os.open("file", os.O_WRONLY)
    fails(errno.EBADF, os.read, writer, 1)


@check
def writing_and_reading_by_several_handles():
    a = os.open("file", os.O_CREAT | os.O_RDWR)
    b = os.open("file", os.O_RDONLY)
    for i in range(20):
        os.pwrite(a, b"%d" % (i % 10), 0)
        same(os.pread(b, 1, 0), b"%d" % (i % 10))


@check
def direct_transfers():
    try:
        descriptor = os.open("file", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        same(error.errno, errno.EINVAL)
        return
    memory = mmap.mmap(-1, 8192)
    memory.write(b"d" * 8192)
    same(os.writev(descriptor, [memory]), 8192)
    os.lseek(descriptor, 4096, os.SEEK_SET)
    same(os.readv(descriptor, [memory]), 4096)
    same(memory[0:4], b"dddd")
    same(read("file"), b"d" * 8192)


# ---- holes and space


@check
def sparse_files():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.ftruncate(descriptor, 64 << 20)
    os.pwrite(descriptor, b"data", 32 << 20)
    assert os.fstat(descriptor).st_blocks * 512 < 1 << 20
    same(os.lseek(descriptor, 0, os.SEEK_DATA), 32 << 20)
    hole = os.lseek(descriptor, 32 << 20, os.SEEK_HOLE)
    assert (32 << 20) < hole <= (33 << 20), hole
    fails(errno.ENXIO, os.lseek, descriptor, 40 << 20, os.SEEK_DATA)
    fails(errno.ENXIO, os.lseek, descriptor, 64 << 20, os.SEEK_DATA)
    os.close(descriptor)


def fallocate(descriptor, mode, offset, length):
    if libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


@check
def allocation():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(descriptor, 0, 1 << 20)
    same(os.fstat(descriptor).st_size, 1 << 20)
    assert os.fstat(descriptor).st_blocks * 512 >= 1 << 20
    fallocate(descriptor, 1, 1 << 20, 1 << 20)
    same(os.fstat(descriptor).st_size, 1 << 20)
    os.pwrite(descriptor, b"x" * 65536, 0)
    fallocate(descriptor, 3, 4096, 8192)
    same(os.pread(descriptor, 16384, 0), b"x" * 4096 + b"\0" * 8192 + b"x" * 4096)
    os.close(descriptor)


@check
def copying_within_the_file_system():
    write("from", b"0123456789" * 1000)
    a = os.open("from", os.O_RDONLY)
    b = os.open("to", os.O_CREAT | os.O_RDWR)
    copied = 0
    while copied < 10000:
        copied += os.copy_file_range(a, b, 10000 - copied, copied, copied)
    same(read("to"), read("from"))


@check
def space_of_the_file_system():
    system = os.statvfs(".")
    assert system.f_blocks > 0 and system.f_bfree <= system.f_blocks
    same(system.f_namemax, 255)


# ---- memory maps


@check
def shared_maps():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.ftruncate(descriptor, 16384)
    shared = mmap.mmap(descriptor, 16384)
    shared[5000:5005] = b"inmap"
    same(os.pread(descriptor, 5, 5000), b"inmap")
    os.pwrite(descriptor, b"written", 100)
    same(shared[100:107], b"written")
    shared.flush()
    shared.close()
    os.close(descriptor)
    same(read("file")[5000:5005], b"inmap")


@check
def maps_outlive_their_descriptor():
    write("file", b"\0" * 8192)
    descriptor = os.open("file", os.O_RDWR)
    shared = mmap.mmap(descriptor, 8192)
    os.close(descriptor)
    os.unlink("file")
    shared[0:3] = b"abc"
    same(shared[0:3], b"abc")
    shared.close()


@check
def private_maps():
    write("file", b"original")
    with open("file", "r+b") as file:
        private = mmap.mmap(file.fileno(), 8, flags=mmap.MAP_PRIVATE)
        private[0:3] = b"new"
        private.close()
    same(read("file"), b"original")


@check
def programs_run_from_it():
    shutil.copy("/bin/sh", "shell") if os.path.exists("/bin/sh") else None
    os.chmod("shell", 0o755)
    child = os.fork()
    if child == 0:
        os.execv("./shell", ["shell", "-c", "exit 7"])
    same(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 7)
    os.chmod("shell", 0o644)
    fails(errno.EACCES, os.execv, "./shell", ["shell"])


# ---- modes, owners, times


@check
def modes():
    os.umask(0)
    for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6711):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY))
        os.chmod("file", mode)
        same(oct(stat.S_IMODE(os.stat("file").st_mode)), oct(mode))
        os.unlink("file")
    descriptor = os.open("made", os.O_CREAT | os.O_WRONLY, 0o777)
    same(oct(stat.S_IMODE(os.fstat(descriptor).st_mode)), oct(0o777))
    os.mkdir("folder", 0o777)
    same(oct(stat.S_IMODE(os.stat("folder").st_mode)), oct(0o777))
    os.umask(0o077)
    os.close(os.open("masked", os.O_CREAT | os.O_WRONLY, 0o777))
    same(oct(stat.S_IMODE(os.stat("masked").st_mode)), oct(0o700))
    os.umask(0o022)


@check
def created_read_only_and_written():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR, 0o400)
    same(os.write(descriptor, b"x"), 1)
    os.ftruncate(descriptor, 0)


@check
def owners():
    write("file")
    same((os.stat("file").st_uid, os.stat("file").st_gid), (0, 0))
    os.chown("file", USER, 1234)
    same((os.stat("file").st_uid, os.stat("file").st_gid), (USER, 1234))
    os.symlink("file", "link")
    os.lchown("link", 5, 6)
    same((os.lstat("link").st_uid, os.lstat("link").st_gid), (5, 6))
    same(os.stat("file").st_uid, USER)


@check
def change_of_owner_drops_privileges():
    write("file")
    os.chmod("file", 0o6755)
    os.chown("file", USER, USER)
    same(oct(stat.S_IMODE(os.stat("file").st_mode)), oct(0o755))


@check
def writing_drops_privileges():
    write("file")
    os.chmod("file", 0o777)
    os.chmod("file", 0o6777)

    def touch():
        descriptor = os.open("file", os.O_WRONLY)
        os.write(descriptor, b"x")
        os.close(descriptor)

    in_child(touch, USER)
    same(oct(stat.S_IMODE(os.stat("file").st_mode)), oct(0o777))


@check
def new_things_are_the_callers():
    os.chmod(".", 0o777)

    def make():
        write("file")
        os.mkdir("folder")
        os.symlink("x", "link")
        os.mkfifo("fifo")

    in_child(make, USER)
    for name in ("file", "folder", "link", "fifo"):
        status = os.lstat(name)
        same((name, status.st_uid, status.st_gid), (name, USER, USER))


@check
def folders_that_give_their_group():
    os.mkdir("folder")
    os.chown("folder", 0, 1234)
    os.chmod("folder", 0o2777)

    def make():
        write("folder/file")
        os.mkdir("folder/sub")

    in_child(make, USER)
    same(os.stat("folder/file").st_gid, 1234)
    same(os.stat("folder/sub").st_gid, 1234)
    assert os.stat("folder/sub").st_mode & stat.S_ISGID


@check
def permissions():
    write("secret", b"x")
    os.chmod("secret", 0o600)
    write("open", b"x")
    os.chmod("open", 0o644)
    os.mkdir("closed")
    write("closed/file")
    os.chmod("closed", 0o700)
    os.chmod(".", 0o755)

    def attempt():
        fails(errno.EACCES, open, "secret")
        same(read("open"), b"x")
        fails(errno.EACCES, open, "open", "w")
        fails(errno.EACCES, os.listdir, "closed")
        fails(errno.EACCES, os.stat, "closed/file")
        fails(errno.EACCES, open, "new", "w")
        fails(errno.EACCES, os.unlink, "open")
        fails(errno.EPERM, os.chmod, "open", 0o777)
        fails(errno.EPERM, os.chown, "open", USER, USER)
        fails(errno.EPERM, os.utime, "open", (1, 1))
        same(os.access("secret", os.R_OK), False)

    in_child(attempt, USER)


@check
def root_may_all():
    write("file", b"x")
    os.chmod("file", 0)
    same(read("file"), b"x")
    write("file", b"y")
    os.mkdir("folder", 0)
    write("folder/file")


@check
def sticky_folder():
    os.chmod(".", 0o1777)
    write("mine")
    os.chmod("mine", 0o666)

    def attempt():
        fails(errno.EPERM, os.unlink, "mine")
        fails(errno.EPERM, os.rename, "mine", "yours")
        write("own")
        os.unlink("own")

    in_child(attempt, USER)


@check
def times():
    write("file")
    os.utime("file", ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    status = os.stat("file")
    same(status.st_atime_ns, 1_234_567_890_123_456_789)
    same(status.st_mtime_ns, 987_654_321_987_654_321)
    os.utime("file")
    assert abs(os.stat("file").st_mtime - time.time()) < 60
    os.symlink("file", "link")
    os.utime("link", ns=(1_000_000_000, 2_000_000_000), follow_symlinks=False)
    same(os.lstat("link").st_mtime_ns, 2_000_000_000)
    assert os.stat("file").st_mtime > 1000
    os.utime("file", ns=(-1_000_000_000, -2_000_000_000))
    same(os.stat("file").st_mtime_ns, -2_000_000_000)


@check
def writing_changes_times():
    write("file")
    os.utime("file", (1, 1))
    before = os.stat("file").st_ctime_ns
    time.sleep(0.02)
    write("file", b"x", "ab")
    status = os.stat("file")
    assert status.st_mtime > 1000
    assert status.st_ctime_ns > before
    os.utime("file", (1, 1))
    read("file")
    same(os.stat("file").st_mtime, 1)


@check
def mode_change_changes_ctime_alone():
    write("file")
    os.utime("file", (1, 1))
    before = os.stat("file").st_ctime_ns
    time.sleep(0.02)
    os.chmod("file", 0o600)
    same(os.stat("file").st_mtime, 1)
    assert os.stat("file").st_ctime_ns > before


# ---- extended attributes


@check
def attributes():
    write("file")
    fails(errno.ENODATA, os.getxattr, "file", "user.absent")
    os.setxattr("file", "user.one", b"1")
    os.setxattr("file", "user.two", b"\0" * 1000)
    same(os.getxattr("file", "user.one"), b"1")
    same(os.getxattr("file", "user.two"), b"\0" * 1000)
    same(sorted(os.listxattr("file")), ["user.one", "user.two"])
    fails(errno.EEXIST, os.setxattr, "file", "user.one", b"2", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, "file", "user.three", b"3", os.XATTR_REPLACE)
    os.setxattr("file", "user.one", b"", os.XATTR_REPLACE)
    same(os.getxattr("file", "user.one"), b"")
    os.removexattr("file", "user.one")
    fails(errno.ENODATA, os.removexattr, "file", "user.one")
    same(os.listxattr("file"), ["user.two"])
    os.mkdir("folder")
    os.setxattr("folder", "user.of-a-folder", b"x")
    same(os.getxattr("folder", "user.of-a-folder"), b"x")
    os.symlink("file", "link")
    same(os.listxattr("link", follow_symlinks=False), [])
    fails(errno.EPERM, os.setxattr, "link", "user.x", b"", follow_symlinks=False)


# ---- special files


@check
def fifos():
    os.mkfifo("fifo")
    assert stat.S_ISFIFO(os.stat("fifo").st_mode)
    child = os.fork()
    if child == 0:
        write("fifo", b"through")
        os._exit(0)
    same(read("fifo"), b"through")
    os.waitpid(child, 0)


@check
def sockets():
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen(1)
    assert stat.S_ISSOCK(os.stat("socket").st_mode)
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.sendall(b"hello")
    same(server.accept()[0].recv(10), b"hello")


# ---- locks


def taken(function):
    """What another process gets that does not wait."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            function()
            os.write(writer, b"free")
        except BlockingIOError:
            os.write(writer, b"taken")
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reader, 100)


@check
def record_locks():
    file = open("file", "w+b")
    fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
    same(taken(lambda: fcntl.lockf(open("file", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)), b"taken")
    same(taken(lambda: fcntl.lockf(open("file", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)), b"free")
    fcntl.lockf(file, fcntl.LOCK_SH, 10, 0)
    same(taken(lambda: fcntl.lockf(open("file", "r+b"), fcntl.LOCK_SH | fcntl.LOCK_NB, 10, 0)), b"free")
    same(taken(lambda: fcntl.lockf(open("file", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 9)), b"taken")
    fcntl.lockf(file, fcntl.LOCK_UN)
    same(taken(lambda: fcntl.lockf(open("file", "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)), b"free")


@check
def whole_file_locks():
    file = open("file", "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    same(taken(lambda: fcntl.flock(open("file"), fcntl.LOCK_SH | fcntl.LOCK_NB)), b"taken")
    fcntl.flock(file, fcntl.LOCK_SH)
    same(taken(lambda: fcntl.flock(open("file"), fcntl.LOCK_SH | fcntl.LOCK_NB)), b"free")
    file.close()
    same(taken(lambda: fcntl.flock(open("file"), fcntl.LOCK_EX | fcntl.LOCK_NB)), b"free")


@check
def locks_are_waited_for():
    file = open("file", "w+b")
    fcntl.lockf(file, fcntl.LOCK_EX)
    child = os.fork()
    if child == 0:
        other = open("file", "r+b")
        fcntl.lockf(other, fcntl.LOCK_EX)
        os._exit(3 if os.path.exists("released") else 4)
    time.sleep(0.3)
    write("released")
    fcntl.lockf(file, fcntl.LOCK_UN)
    same(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 3)


# ---- durability


@check
def synchronisation():
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"x" * 100000)
    os.fsync(descriptor)
    os.fdatasync(descriptor)
    os.close(descriptor)
    folder = os.open(".", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    descriptor = os.open("synchronous", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
    os.write(descriptor, b"x")
    os.close(descriptor)
    same(read("synchronous"), b"x")


def main():
    top = os.path.realpath(sys.argv[1])
    signal.alarm(1800)
    failed = 0
    for function in CHECKS:
        name = function.__name__
        folder = os.path.join(top, name)
        os.mkdir(folder)
        os.chmod(folder, 0o755)
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            signal.alarm(600)
            try:
                function()
                print(f"ok {name}", flush=True)
            except BaseException as error:
                print(f"failed {name}: {type(error).__name__}: {error}", flush=True)
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            print(f"failed {name}: ended by signal {-status}", flush=True)
        failed += status != 0
        shutil.rmtree(folder)
    print(f"{len(CHECKS)} checks, {failed} failed")
    sys.exit(1 if failed else 0)


main()
