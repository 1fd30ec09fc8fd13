"""What this Python must be able to do beside what python's own recipe checks: check.py LIBRARY."""
import sys

library = sys.argv[1] + "/python3.11"
sys.path[:] = [sys.argv[1] + "/python311.zip", library, library + "/lib-dynload"]

import http.client
import ssl

assert ssl.__file__.endswith(library + "/ssl.pyc"), ssl.__file__
assert ssl.get_default_verify_paths().openssl_cafile == "/etc/ssl/cert.pem"
context = ssl.create_default_context()
assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
assert context.maximum_version == ssl.TLSVersion.MAXIMUM_SUPPORTED
http.client.HTTPSConnection("localhost", context=context)
ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
