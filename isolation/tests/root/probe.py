"""Tries the escape techniques of a container, each in a process of its own: a line each, `open`, `shut` or, if it could not be tried,
`faulty`, then a tab, the name, a tab and what the kernel answered. If there is a file `wanted`, only those that it names. Arguments are what there is to be
found on the host: the name of an abstract socket, a TCP port of its loopback, the key of shared memory, a block device, and
a TCP port of its loopback by IPv6.

Nothing here does harm where it succeeds: system calls get arguments that change nothing, and are open when the answer
is another than the one for what is forbidden; files that are made have no name, or are gone at once.
"""
import ctypes
import errno
import os
import resource
import socket
import sys
import time

# Before anything here opens more.
DESCRIPTORS = os.listdir("/proc/self/fd")
# The container's init, or the keeper of a command that has entered.
ABOVE = os.getppid()
LIBC = ctypes.CDLL(None, use_errno=True)
# Of x86-64; on other machines these probes are left out by the test.
NUMBERS = {
    "io_uring_setup": 425, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250, "add_key": 248,
    "request_key": 249, "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313,
    "delete_module": 176, "mount": 165, "umount2": 166, "pivot_root": 155, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "setns": 308, "unshare": 272,
    "process_vm_readv": 310, "process_vm_writev": 311, "open_by_handle_at": 304, "name_to_handle_at": 303,
    "quotactl": 179, "quotactl_fd": 443, "acct": 163, "swapon": 167, "swapoff": 168, "reboot": 169, "vmsplice": 278,
    "iopl": 172, "ioperm": 173, "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305, "syslog": 103,
    "lookup_dcookie": 212, "modify_ldt": 154, "sethostname": 170, "setdomainname": 171, "chroot": 161, "kcmp": 312,
    "move_pages": 279, "migrate_pages": 256, "set_mempolicy": 238, "mbind": 237, "pidfd_getfd": 438,
    "process_madvise": 440, "memfd_secret": 447, "fanotify_init": 300, "ustat": 136, "sysfs": 139, "uselib": 134,
    "vhangup": 153, "nfsservctl": 180, "listmount": 458, "statmount": 457, "lsm_set_self_attr": 460,
}


def call(number, *arguments):
    """Whether the kernel got to see the call: it may still have refused the arguments."""
    ctypes.set_errno(0)
    words = [ctypes.c_long(argument) for argument in arguments] + [ctypes.c_long(0)] * (6 - len(arguments))
    result = LIBC.syscall(ctypes.c_long(number), *words)
    return result, ctypes.get_errno()


def reached(name):
    # An address that is none, a descriptor that is none: nothing can come of it.
    arguments = {"reboot": (0, 0, 0), "iopl": (99,), "vhangup": (), "chroot": (1,), "setns": (-1, 0), "syslog": (99,),
                 "acct": (1,), "unshare": (1,), "modify_ldt": (99,)}
    result, error = call(NUMBERS[name], *arguments.get(name, (-1, 1, 1, 1, 1)))
    return error not in (errno.EPERM, errno.ENOSYS), os.strerror(error) if result < 0 else "done"


def opens(path, flags):
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return False, error.strerror
    return True, "opened"


def reads(path):
    try:
        with open(path, "rb") as file:
            return bool(file.read(1)), "read"
    except OSError as error:
        return False, error.strerror


def does(action):
    try:
        action()
    except (OSError, PermissionError) as error:
        return False, error.strerror
    return True, "done"


def namespace(flags):
    """By `clone`, whose flags a filter must look at; the child ends at once."""
    result, error = call(56, flags | 17, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    if result > 0:
        os.waitpid(result, 0)
    return result > 0, os.strerror(error) if result < 0 else "done"


def of_another_architecture():
    """The way in for 32-bit code: a filter that knows only one architecture is gone round by it."""
    import mmap
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # mov eax, 20 (getpid of i386); int 0x80; ret
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0 else 3)
    _, status = os.waitpid(pid, 0)
    return status == 0, "answered" if status == 0 else "ended by a signal"


def socket_of(family, kind, protocol=0):
    return does(lambda: socket.socket(family, kind, protocol).close())


def pair_of(family, kind):
    """Whether the kernel created the sockets: only then it reports that the family has no pairs."""
    both = (ctypes.c_int * 2)()
    result, error = call(53, family, kind, 0, ctypes.addressof(both))
    return error not in (errno.EPERM, errno.ENOSYS), os.strerror(error) if result < 0 else "made"


def type_into_terminal():
    """Its own; others need a capability on the host."""
    import fcntl
    _, slave = os.openpty()
    os.setsid()
    fcntl.ioctl(slave, 0x540e, 0)
    try:
        fcntl.ioctl(slave, 0x5412, b"x")
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.EACCES), error.strerror
    return True, "typed"


def abstract_socket(name):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + name)
    except OSError as error:
        return False, error.strerror
    return True, "connected"


def trace_init():
    result, error = call(101, 0x4206, 1, 0, 0)
    return result == 0, os.strerror(error)


def signals_init():
    """Process 1 gets no signal from inside that it does not handle; any other process may be probed without harm."""
    if ABOVE != 1:
        return does(lambda: os.kill(ABOVE, 0))
    os.kill(1, 9)
    time.sleep(0.05)
    return False, "it lives"


LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def connects(address, port):
    return does(lambda: socket.create_connection((address, int(port)), 1.5).close())


def binds_port(family):
    """A descriptor of the host, of another process."""
    return does(lambda: bind_any_of(family, range(47000, 47100)))


def bind_any_of(family, ports):
    for port in ports:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            try:
                return one.bind((LOOPBACK[family], port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise


def heard_unbound(family):
    """Who listens without having bound a port gets one of the host's."""
    with socket.socket(family) as one:
        one.listen()
        return does(lambda: socket.create_connection((LOOPBACK[family], one.getsockname()[1]), 1).close())


def shared_memory(key):
    """System V memory that all users can read, if they know its key."""
    result, error = call(29, int(key), 0, 0)
    return result >= 0, os.strerror(error) if result < 0 else "found"


def group_of_the_host():
    with open("/proc/self/cgroup", encoding="ascii") as groups:
        named = [line.strip() for line in groups if line.startswith("0::")]
    return named not in ([], ["0::/"]), str(named)


def more_files():
    """Than a command may have open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return does(lambda: [os.dup(0) for _ in range(5000)])


def leaves_core():
    """An image of its memory, wherever the host keeps such."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (4096, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except ValueError as error:
        return False, str(error)
    return True, "allowed"


def become_root():
    return does(lambda: os.setresuid(0, 0, 0))


def capabilities():
    with open("/proc/self/status", encoding="ascii") as status:
        sets = [line.split()[1] for line in status if line.startswith("Cap")]
    return any(int(each, 16) for each in sets), " ".join(sets)


def gains_by_set_user_id():
    with open("/proc/self/status", encoding="ascii") as status:
        return "NoNewPrivs:\t0" in status.read(), "see NoNewPrivs"


def leaked_descriptors():
    # The last is the one of the listing itself.
    return len(DESCRIPTORS) > 4, f"descriptors {DESCRIPTORS}"


def sees_strangers():
    """Processes that are neither init nor this one nor between them."""
    mine, pid = {1}, os.getpid()
    while pid > 1:
        mine.add(pid)
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            pid = int(stat.read().rsplit(")", 1)[1].split()[1])
    strangers = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in mine]
    return bool(strangers), f"processes {strangers}"


def makes_nameless(directory):
    """A file of which nothing is left."""
    return does(lambda: os.close(os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o600)))


def makes_file(path):
    def make():
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.unlink(path)
    return does(make)


def unmasked(path, flags=os.O_RDONLY):
    """Covered by a device that swallows everything it is out of reach."""
    try:
        if os.path.samestat(os.stat(path), os.stat("/dev/null")):
            return False, "covered"
    except OSError as error:
        return False, error.strerror
    return opens(path, flags)


def through_link():
    """A link in the sandbox that leads out."""
    os.symlink("/etc", "way-out")
    return makes_nameless("way-out/")


def escapes_by_chroot():
    """The escape from a root that is only covered."""
    try:
        os.makedirs("jail", exist_ok=True)
        out = os.open("/", os.O_RDONLY)
        os.chroot("jail")
        os.fchdir(out)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        return os.path.exists("/sandbox") is False, "at another root"
    except OSError as error:
        return False, error.strerror


def makes_device(mode, major, minor):
    def make():
        name = f"device-{major}-{minor}"
        os.mknod(name, mode | 0o600, os.makedev(major, minor))
        try:
            os.close(os.open(name, os.O_RDONLY))
        finally:
            os.unlink(name)
    return does(make)


CLONES = {"cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000,
          "net": 0x40000000, "mount": 0x00020000}
PROBES = {f"call {name}": (lambda name=name: reached(name)) for name in NUMBERS}
PROBES |= {f"clone into a new {kind} namespace": (lambda flag=flag: namespace(flag)) for kind, flag in CLONES.items()}
PROBES |= {
    "clone3": lambda: (call(435, 1, 0)[1] not in (errno.EPERM, errno.ENOSYS), "asked"),
    "a call of 32-bit code": of_another_architecture,
    "a call of the x32 table": lambda: (call(0x40000000 | 39)[0] > 0, "asked"),
    "a socket to hypervisors": lambda: socket_of(40, socket.SOCK_STREAM),
    "a socket to the kernel's ciphers": lambda: socket_of(38, socket.SOCK_SEQPACKET),
    "a socket to the wire": lambda: socket_of(17, socket.SOCK_RAW),
    "a socket of raw packets": lambda: socket_of(socket.AF_INET, socket.SOCK_RAW, 1),
    "a socket of raw packets of IPv6": lambda: socket_of(socket.AF_INET6, socket.SOCK_RAW, 58),
    "a socket to the audit log": lambda: socket_of(16, socket.SOCK_RAW, 9),
    "a pair of sockets of the internet": lambda: pair_of(socket.AF_INET, socket.SOCK_STREAM),
    "a pair of sockets of the internet by IPv6": lambda: pair_of(socket.AF_INET6, socket.SOCK_STREAM),
    "a pair of sockets to hypervisors": lambda: pair_of(40, socket.SOCK_STREAM),
    "a pair of sockets to the kernel's ciphers": lambda: pair_of(38, socket.SOCK_SEQPACKET),
    "a pair of sockets to the kernel's tables": lambda: pair_of(16, socket.SOCK_RAW),
    "a pair of sockets of TIPC": lambda: pair_of(30, socket.SOCK_SEQPACKET),
    "typing into a terminal": type_into_terminal,
    "the host's abstract sockets": lambda: abstract_socket(sys.argv[1]),
    "the host's ports": lambda: connects("127.0.0.1", sys.argv[2]),
    "the host's ports by IPv6": lambda: connects("::1", sys.argv[5]),
    "the host's ports by a mapped IPv6 address": lambda: connects("::ffff:127.0.0.1", sys.argv[2]),
    "the host's shared memory": lambda: shared_memory(sys.argv[3]),
    "the host's name": lambda: (os.uname().nodename != "contained", os.uname().nodename),
    "the host's control groups": group_of_the_host,
    "more files than are allowed": more_files,
    "an image of its memory": leaves_core,
    "tracing init": trace_init,
    "init's memory": lambda: opens("/proc/1/mem", os.O_RDONLY),
    "init's root": lambda: does(lambda: os.listdir("/proc/1/root/")),
    "init's descriptors": lambda: does(lambda: os.listdir("/proc/1/fd")),
    "init's environment": lambda: opens("/proc/1/environ", os.O_RDONLY),
    "init's executable": lambda: opens("/proc/1/exe", os.O_RDONLY),
    "writing to its executable": lambda: opens("/proc/self/exe", os.O_WRONLY),
    "signals to init": signals_init,
    "becoming root": become_root,
    "capabilities": capabilities,
    "set-user-id files": gains_by_set_user_id,
    "descriptors that leaked": leaked_descriptors,
    "other processes": sees_strangers,
    "the host's passwords": lambda: reads("/etc/shadow"),
    "the homes of the host": lambda: does(lambda: os.listdir("/root")),
    "the host's data": lambda: does(lambda: os.listdir("/var/lib")),
    "the host's sockets": lambda: does(lambda: os.listdir("/run")),
    "the host's firmware": lambda: does(lambda: os.listdir("/sys/firmware")),
    "a file in /usr": lambda: makes_nameless("/usr"),
    "a file in /etc": lambda: makes_nameless("/etc"),
    "a file in /": lambda: makes_file("/argosy-probe"),
    "a file in /dev": lambda: makes_file("/dev/argosy-probe"),
    "a link that leads out": through_link,
    "its control group": lambda: opens("/sys/fs/cgroup/cgroup.procs", os.O_WRONLY),
    "the kernel's settings": lambda: opens("/proc/sys/kernel/core_pattern", os.O_WRONLY),
    "the kernel's magic keys": lambda: unmasked("/proc/sysrq-trigger", os.O_WRONLY),
    "the kernel's memory": lambda: unmasked("/proc/kcore"),
    "the kernel's keys": lambda: unmasked("/proc/keys"),
    "the kernel's timers": lambda: unmasked("/proc/timer_list"),
    "the kernel's interrupts": lambda: unmasked("/proc/interrupts"),
    "a block device": lambda: makes_device(0o060000, *map(int, sys.argv[4].split(":"))),
    "a device of memory": lambda: makes_device(0o020000, 1, 1),
    "the root before this one": escapes_by_chroot,
    "programs in /tmp": lambda: does(lambda: run_in_scratch("/tmp")),
    "programs in /dev/shm": lambda: does(lambda: run_in_scratch("/dev/shm")),
    "a port of others": lambda: binds_port(socket.AF_INET),
    "a port of others by IPv6": lambda: binds_port(socket.AF_INET6),
    "listening at no port of its own": lambda: heard_unbound(socket.AF_INET),
    "listening at no port of its own by IPv6": lambda: heard_unbound(socket.AF_INET6),
    "a socket of SCTP": lambda: socket_of(socket.AF_INET, socket.SOCK_STREAM, 132),
    "a socket of UDP-Lite": lambda: socket_of(socket.AF_INET, socket.SOCK_DGRAM, 136),
    "a socket of SCTP by IPv6": lambda: socket_of(socket.AF_INET6, socket.SOCK_STREAM, 132),
    "a socket of UDP-Lite by IPv6": lambda: socket_of(socket.AF_INET6, socket.SOCK_DGRAM, 136),
}


def run_in_scratch(directory):
    """A script, which any process can create that may execute files there."""
    program = f"{directory}/program"
    with open(program, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\n")
    os.chmod(program, 0o755)
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(program, [program])
        except OSError as error:
            os._exit(error.errno)
    _, status = os.waitpid(pid, 0)
    os.unlink(program)
    if status:
        raise OSError(os.waitstatus_to_exitcode(status), os.strerror(os.waitstatus_to_exitcode(status)))


def attempt(name):
    """In a process of its own: some end of being refused, and what one gains the next must not have."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            is_open, answer = PROBES[name]()
            verdict = "open" if is_open else "shut"
        except OSError as error:
            verdict, answer = "shut", error.strerror
        except Exception as error:  # It has not tried what it was to try.
            verdict, answer = "faulty", repr(error)
        os.write(theirs, f"{verdict}\t{name}\t{answer}".encode())
        os._exit(0)
    os.close(theirs)
    _, status = os.waitpid(pid, 0)
    output = os.read(ours, 4096).decode()
    os.close(ours)
    print(output or f"shut\t{name}\tended with {status}")


def wanted():
    if not os.path.exists("wanted"):
        return PROBES
    with open("wanted", encoding="utf-8") as file:
        return file.read().splitlines()


if __name__ == "__main__":
    for each in wanted():
        attempt(each)
