"""Load for a network, as net-load.mjs: the guest's end. See there for what goes over the wire."""
import socket, struct, sys, threading, time, zlib

BLOCK = 65536
BODY = bytes((x * x * 31 + x * 7) & 255 for x in range(BLOCK - 8))
LIMIT_S = 300


def send(sock, size):
    crc = 0
    for i in range(size // BLOCK):
        block = struct.pack('>Q', i) + BODY
        crc = zlib.crc32(block, crc)
        sock.sendall(block)
    sock.sendall(struct.pack('>I', crc))


def receive(sock, size):
    crc, got, tail = 0, 0, b''
    while got < size + 4:
        data = sock.recv(min(1 << 18, size + 4 - got))
        if not data:
            return False
        content = data[:max(0, size - got)]
        crc = zlib.crc32(content, crc)
        tail += data[len(content):]
        got += len(data)
    return struct.unpack('>I', tail)[0] == crc


def line(sock):
    text = b''
    while not text.endswith(b'\n'):
        byte = sock.recv(1)
        if not byte:
            break
        text += byte
    return text.decode().split()


def serve_one(sock):
    with sock:
        words = line(sock)
        if words[:1] == ['get']:
            send(sock, int(words[1]))
        elif words[:1] == ['put']:
            sock.sendall(b'go\n')
            sock.sendall(b'ok\n' if receive(sock, int(words[1])) else b'bad\n')
        elif words[:1] == ['ping']:
            sock.sendall(b'pong\n')


def serve(port):
    server = socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    echo.bind(('::', port))

    def datagrams():
        while True:
            data, sender = echo.recvfrom(65536)
            echo.sendto(data, sender)

    threading.Thread(target=datagrams, daemon=True).start()
    while True:
        sock, _ = server.accept()
        threading.Thread(target=serve_one, args=(sock,), daemon=True).start()


def connect(host, port):
    return socket.create_connection((host, port), timeout=LIMIT_S)


def transfer(verb, host, port, size):
    with connect(host, port) as sock:
        sock.sendall(f'{verb} {size}\n'.encode())
        if verb == 'get':
            return receive(sock, size)
        if line(sock) != ['go']:
            return False
        send(sock, size)
        return line(sock) == ['ok']


def short(host, port):
    with connect(host, port) as sock:
        sock.sendall(b'ping\n')
        return line(sock) == ['pong']


def udp(host, port, size):
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        data = bytes(size)
        for _ in range(5):
            sock.sendto(data, address)
            try:
                if sock.recv(65536) == data:
                    return True
            except socket.timeout:
                pass
        return False


def main(verb, *args):
    if verb == 'serve':
        serve(int(args[0]))
    host, port, amount = args[0], int(args[1]), int(args[2])
    start = time.monotonic()
    if verb == 'short':
        good = all(short(host, port) for _ in range(amount))
    elif verb == 'udp':
        good = udp(host, port, amount)
    else:
        good = transfer(verb, host, port, amount)
    print('good' if good else 'bad', f'{time.monotonic() - start:.2f} s')


main(*sys.argv[1:])
