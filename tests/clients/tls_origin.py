"""An HTTPS server by Python's ssl, which is OpenSSL, that tells how it was reached.

    tls_origin.py CERTIFICATE KEY NEWEST    serves until it is stopped; NEWEST is 1.2 or 1.3; the first line of output says where
"""

import http.server
import json
import ssl
import sys


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        tls = self.connection
        told = {"sni": tls.asked_for, "version": tls.version(), "host": self.headers["host"], "path": self.path}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """Callers that break the handshake off are what the test is about."""


def remember(tls, name, _context):
    tls.asked_for = name


def main(certificate, key, newest):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[newest]
    context.sni_callback = remember
    server = Server(("127.0.0.1", 0), Origin)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(json.dumps({"listening": {"https": "127.0.0.1:%d" % server.server_address[1]}}))
    server.serve_forever()


main(*sys.argv[1:])
