"""The command line's options for reaching a host, one set for every command."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.endpoint import RemoteEndpoint
from blackbox_ti.errors import InputError
from blackbox_ti.hf_endpoint import HfEndpoint
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.oip_endpoint import OipEndpoint
from blackbox_ti.oip_mapping import load_mapping
from blackbox_ti.secrets import load_api_key

__all__ = ["PROTOCOLS", "add_connection", "connect", "connection_options"]

PROTOCOLS = ("blackbox-ti", "oip", "hf")


def add_connection(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that say which host, by which key and on which way."""
    group = parser.add_argument_group("connection")
    group.add_argument("--endpoint", required=required, metavar="URL", help="address of the host")
    group.add_argument("--protocol", choices=PROTOCOLS, help="what the host speaks (default blackbox-ti)")
    group.add_argument("--mapping", type=Path, metavar="FILE", help="tensors of an oip host by name (TOML)")
    group.add_argument("--api-key-file", type=Path, help="file that holds the API key (or set BLACKBOX_TI_API_KEY)")
    group.add_argument("--api-key-command", help="command that prints the API key")
    group.add_argument("--ca-file", type=Path, help="certificate authorities (PEM) instead of the system's")
    group.add_argument("--client-certificate", type=Path, help="client certificate (PEM) for mutual TLS")
    group.add_argument("--client-key", type=Path, help="its key (PEM)")
    group.add_argument("--proxy", help="address of an HTTP proxy")
    group.add_argument("--allow-http", action="store_true", help="permit plain http off this machine")


def connection_options(args: argparse.Namespace) -> ConnectionOptions:
    """Return what parsed options say of the way to the host."""
    return ConnectionOptions(
        ca_file=args.ca_file,
        client_certificate=args.client_certificate,
        client_key=args.client_key,
        proxy=args.proxy,
        allow_http=args.allow_http,
    )


def connect(args: argparse.Namespace, *, anonymous: bool = False, **extra: Any) -> RemoteEndpoint:
    """Return the endpoint that parsed options name, without their key if `anonymous`; `extra` goes to it.

    Raises:
        InputError: the key, the address, a TLS file or the mapping cannot be used.
    """
    key = None
    if not anonymous:
        key = load_api_key(environ=os.environ, file=args.api_key_file, command=args.api_key_command)
    options = connection_options(args)
    if args.protocol == "oip":
        mapping = None if args.mapping is None else load_mapping(Path(args.mapping))
        return OipEndpoint(args.endpoint, mapping=mapping, api_key=key, options=options, **extra)
    if args.mapping is not None:
        raise InputError("--mapping is for --protocol oip; add that, or leave the mapping out")
    if args.protocol == "hf":
        return HfEndpoint(args.endpoint, api_key=key, options=options, **extra)
    return HttpEndpoint(args.endpoint, api_key=key, options=options, **extra)
