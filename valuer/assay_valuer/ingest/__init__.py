"""The valuer's two listeners: enrolment under server TLS, attestation under mutual TLS."""
