# SPDX-License-Identifier: Apache-2.0
"""The certificate authority: signs the requests of node agents, as Istio's CreateCertificate.

``authority`` holds the signing key, ``issue`` decides what is signed, ``verifier`` who may ask,
``server`` speaks gRPC (and alone imports it), ``app`` puts them together, ``command`` is its place
on the command line. A private key or a token never reaches a log or an answer.
"""
