"""Drives the PyPI clients of IPFS Cluster's REST API, which are used as they come: a JSON line in is a call, a JSON line
out says what it gave, as with drive.mjs. See tests/src/clients.rs, which talks to it.

What JSON lacks: {"$bytes": "base64"} bytes; {"$add": {...}} and {"$pin": {...}} the options of ipfscluster.
"""

import asyncio
import base64
import json
import os
import sys
import urllib.parse
import warnings

import asyncipfscluster
import ipfscluster

warnings.simplefilter("ignore")

opened = []


def connect(request):
    url = urllib.parse.urlsplit(request["url"])
    address = f"/ip4/{url.hostname}/tcp/{url.port}/{url.scheme}"
    defaults = {"headers": request["headers"]} if request.get("headers") else {}
    return ipfscluster.connect(address, **defaults)


def connect_async(request):
    auth = request.get("auth")
    return asyncipfscluster.IPFSClient(request["url"].rstrip("/"), tuple(auth) if auth else None)


LIBRARIES = {"ipfscluster": connect, "asyncipfscluster": connect_async}


def alive(value):
    if isinstance(value, list):
        return [alive(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$add" in value:
        return ipfscluster.AddOptions(**{key: alive(inner) for key, inner in value["$add"].items()})
    if "$pin" in value:
        return ipfscluster.PinOptions(**value["$pin"])
    return {key: alive(inner) for key, inner in value.items()}


def plain(value):
    """What the libraries wrap around an object of the answer."""
    return value.as_json() if hasattr(value, "as_json") else str(value)


async def within(client, method, args, named):
    async with client:
        return await getattr(client, method)(*args, **named)


def call(request):
    client = opened[request["client"]]
    args, named = alive(request["args"]), alive(request.get("named") or {})
    try:
        if isinstance(client, asyncipfscluster.IPFSClient):
            return {"value": asyncio.run(within(client, request["method"], args, named))}
        method = client
        for part in request["method"].split("."):
            method = getattr(method, part)
        return {"value": method(*args, **named)}
    except Exception as error:  # It is what the caller asks for.
        thrown = {"name": type(error).__name__, "message": str(error)}
        response = getattr(getattr(error, "original", None), "response", None)
        if response is not None:
            thrown["status"] = response.status_code
        return {"thrown": thrown}


def opening(request):
    try:
        opened.append(LIBRARIES[request["library"]](request))
    except Exception as error:
        return {"thrown": {"name": type(error).__name__, "message": str(error)}}
    return {"client": len(opened) - 1}


COMMANDS = {"open": opening, "call": call}


def main():
    out = os.fdopen(os.dup(1), "w")
    # What a library prints is none of ours.
    os.dup2(2, 1)

    def say(answer):
        out.write(json.dumps(answer, default=plain) + "\n")
        out.flush()

    say({"seq": 0, "ok": {"python": sys.version}})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say({"seq": request["seq"], "ok": COMMANDS[request["cmd"]](request)})
        except Exception as error:
            say({"seq": request["seq"], "error": f"{type(error).__name__}: {error}"})


main()
