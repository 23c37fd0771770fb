"""The guest's end of connections of the socket device: sends back what it gets until the host ends its half.

`serve PORT` for ever, or `connect PORT COUNT` to the host, so many at once, which says how many failed."""
import socket, sys, threading

HOST = 2


def echo(sock):
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)


def connect(port, failed):
    try:
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        sock.connect((HOST, port))
        echo(sock)
    except OSError as error:
        failed.append(error)


verb, port, *rest = sys.argv[1:]
if verb == 'serve':
    server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    server.bind((socket.VMADDR_CID_ANY, int(port)))
    server.listen(16)
    while True:
        threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()

failed = []
threads = [threading.Thread(target=connect, args=(int(port), failed)) for _ in range(int(rest[0]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f'{len(failed)} failed {failed}')
