"""
Load that looks at itself, for a guest that is saved and goes on: `snapshot-load.py LOG`. Appends lines to LOG,
`NAME COUNT` for each step of what it does, and `error: …` for what is wrong: a chain of hashes, a TCP stream over the
loopback whose bytes are verified, and time that never goes back, by timers that come when they are to.
"""
import hashlib, socket, sys, threading, time

lock = threading.Lock()
log = open(sys.argv[1], 'a', buffering=1)
BLOCK = 65536


def say(text):
    with lock:
        log.write(text + '\n')


def chain():
    """What it is at each step can be computed again from the first."""
    value, check, count = b'start', b'start', 0
    while True:
        for _ in range(2000):
            value = hashlib.sha256(value).digest()
        for _ in range(2000):
            check = hashlib.sha256(check).digest()
        count += 1
        if value != check:
            say(f'error: chain {count}')
        say(f'chain {count}')


def block(number):
    return hashlib.sha256(number.to_bytes(8, 'big')).digest() * (BLOCK // 32)


def stream():
    server = socket.create_server(('127.0.0.1', 0))

    def send():
        sock, _ = server.accept()
        number = 0
        while True:
            sock.sendall(block(number))
            number += 1
            time.sleep(0.01)

    threading.Thread(target=send, daemon=True).start()
    client = socket.create_connection(server.getsockname())
    number = 0
    while True:
        got = b''
        while len(got) < BLOCK:
            data = client.recv(BLOCK - len(got))
            if not data:
                say('error: the stream has ended')
                return
            got += data
        if got != block(number):
            say(f'error: stream {number}')
        number += 1
        if number % 20 == 0:
            say(f'stream {number}')


def clock():
    last, count = time.monotonic(), 0
    while True:
        time.sleep(0.05)
        now = time.monotonic()
        if now < last:
            say(f'error: time went back from {last} to {now}')
        # A processor that is emulated and has others to wait for is late, not lost.
        if now - last > 60:
            say(f'error: time went from {last} to {now}')
        last = now
        count += 1
        if count % 20 == 0:
            say(f'clock {count}')


def guarded(work):
    try:
        work()
    except Exception as error:
        say(f'error: {work.__name__}: {error!r}')


for work in (chain, stream, clock):
    threading.Thread(target=guarded, args=(work,)).start()
