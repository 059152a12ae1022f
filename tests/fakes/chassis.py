"""Hosts with TPMs and devices in them, under makers' roots of our own and a policy that names those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from assay_core.leaves import Content, Group
from assay_valuer.policy import Evidence, ValuerPolicy
from tests.fakes import nvidia
from tests.fakes.endorsing import Maker, der
from tests.fakes.host import FakeGpu, FakeHost
from tests.fakes.tpm import AK_ATTRIBUTES, FakeTpm

TPM_MAKER = Maker()
GPU_MAKER = nvidia.Maker()


def trusting(**changed: object) -> ValuerPolicy:
    """A policy that names our makers' roots and credits what they vouch for, and asks no OCSP unless
    told.
    """
    evidence = {
        "simulated_tpm_roots": (TPM_MAKER.sha256,),
        "device_roots": tuple(GPU_MAKER.roots),
        "ocsp": "waived",
    }
    chosen = Evidence(**(evidence | changed))  # type: ignore[arg-type]  # test data
    return ValuerPolicy(evidence=chosen, credit_simulated=True)


def new_tpm(maker: Maker = TPM_MAKER, *, ak_attributes: int = AK_ATTRIBUTES) -> FakeTpm:
    """A chip; its certificates come with their root, as those of a simulated TPM must."""
    made = FakeTpm(maker, ak_attributes)
    made.certificates = [*made.certificates, der(maker.root.certificate)]
    return made


@dataclass
class Machine:
    """A host, its chip, and what is in its slots. `host` seals; a device answers for each GPU."""

    host: FakeHost
    tpm: FakeTpm | None
    devices: list[nvidia.Device]
    site: str
    tls_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def id(self) -> str:
        return self.host.host_id

    @property
    def serials(self) -> list[str]:
        return [gpu.serial for gpu in self.host.gpus]

    @property
    def now_ms(self) -> int:
        return self.host.now_ms

    @now_ms.setter
    def now_ms(self, now_ms: int) -> None:
        self.host.now_ms = now_ms

    def boot(self) -> None:
        """Another boot; a TPM counts it."""
        self.host.boot_id = self.host.random.randbytes(16)
        self.host.booted_ms = self.now_ms
        if self.tpm is not None:
            self.tpm.resets += 1

    def contents(
        self,
        *,
        identity: bool | None = None,
        lost: Sequence[int] = (),
        broken: Sequence[int] = (),
    ) -> tuple[Content, ...]:
        """What it sees: each GPU says the PDI of the device that is in its slot."""
        bad = {self.host.gpus[at].uuid for at in broken}
        pdis = {
            gpu.uuid: device.pdi for gpu, device in zip(self.host.gpus, self.devices, strict=False)
        }
        gone = {self.host.gpus[at].uuid for at in lost}
        found = []
        for one in self.host.contents(identity=identity):
            values = dict(one.values)
            if one.subject in gone:
                continue
            if one.group is Group.IDENTITY and one.subject in pdis:
                values["pdi"] = pdis[one.subject]
            if one.group is Group.HEALTH and one.subject in bad:
                values["remap_failed"] = 1
            if one.group is Group.HOST:
                values["missing_gpus"] = tuple(sorted(gone))
            found.append(Content(one.subject, one.group, values))
        return tuple(found)

    def pull(self, index: int) -> tuple[FakeGpu, nvidia.Device | None]:
        """Takes a GPU out; what it needs to be put in elsewhere."""
        device = self.devices.pop(index) if index < len(self.devices) else None
        return self.host.gpus.pop(index), device

    def put(self, pulled: tuple[FakeGpu, nvidia.Device | None]) -> None:
        """Puts in what was taken out elsewhere, or is new."""
        gpu, device = pulled
        self.host.gpus.append(gpu)
        if device is not None:
            self.devices.append(device)
