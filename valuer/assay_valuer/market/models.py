"""Which product a GPU is, by the driver's names and by nothing else, and what each product is.

A name that is not in the table is an unknown product, and its value is unknown: a guess here would
be a price for something else. Names are those that nvmlDeviceGetName and nvidia-smi print. Where a
driver gives two cards one name (RTX 3060, 4060 Ti), or reads a card that is sold as one as several
GPUs (K80, A16), there is no product; of the RTX 3080, which came with 10 and 12 GB, it is the lesser.

Figures are NVIDIA's data sheets and architecture white papers as remembered, the sheets not at hand;
those that other sources gave (H100 PCIe, L40S, B200, GB200) agreed: memory and bandwidth of one GPU, the dense tensor rate in FP16 (sparse figures halved; of the RTX and RTX PRO lines that give
FP8 or FP4 alone, a quarter or an eighth of the sparse rate; of Pascal, which has no tensor cores, the
faster of FP16 and FP32), the most that a board draws (of superchips with their CPU's share), and the
month in which it could first be bought. The rates of GeForce accumulate in FP16: they compare cards
of their class alone. Those of an A10G are what AWS's instances show.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from assay_valuer.market.labels import asset_class


@dataclass(frozen=True, slots=True, order=True)
class Product:
    """What a price table prices: a model and its form factor."""

    model: str
    form_factor: str

    def __str__(self) -> str:
        return f"{self.model} {self.form_factor}"


@dataclass(frozen=True, slots=True)
class Specs:
    """What a product is."""

    asset_class: str
    """As `market.labels` reads it off the model: the RTX PRO 6000 is of its line, whatever the edition."""
    memory_gb: int
    bandwidth_gb_s: int
    fp16_gflops: int
    power_max_w: int
    released: date
    """The first day of the month."""
    boards: tuple[int, ...]
    """How many GPUs the baseboards have that it is made for; empty where it needs none."""
    export: bool
    """Made for what one country's rules let in: fewer buyers elsewhere."""


_TABLE: Final = """
Tesla P4|P4|PCIe|8|192|5500|75|2016-09||
Tesla P40|P40|PCIe|24|346|12000|250|2016-09||
Tesla P100-PCIE-16GB|P100 16GB|PCIe|16|732|18700|250|2016-06||
Tesla P100-SXM2-16GB|P100 16GB|SXM2|16|732|21200|300|2016-06|4 8|
Tesla V100-PCIE-16GB|V100 16GB|PCIe|16|900|112000|250|2017-06||
Tesla V100-PCIE-32GB|V100 32GB|PCIe|32|900|112000|250|2018-03||
Tesla V100S-PCIE-32GB|V100S 32GB|PCIe|32|1134|130000|250|2019-11||
Tesla V100-SXM2-16GB|V100 16GB|SXM2|16|900|125000|300|2017-06|4 8|
Tesla V100-SXM2-32GB|V100 32GB|SXM2|32|900|125000|300|2018-03|4 8|
Tesla T4|T4|PCIe|16|320|65000|70|2018-09||
NVIDIA A2|A2|PCIe|16|200|18000|60|2021-11||
NVIDIA A10|A10|PCIe|24|600|125000|150|2021-04||
NVIDIA A10G|A10G|PCIe|24|600|70000|300|2021-11||
NVIDIA A30|A30|PCIe|24|933|165000|165|2021-04||
NVIDIA A40|A40|PCIe|48|696|149700|300|2020-10||
NVIDIA A100-SXM4-40GB|A100 40GB|SXM4|40|1555|312000|400|2020-05|4 8 16|
NVIDIA A100-SXM4-80GB|A100 80GB|SXM4|80|2039|312000|400|2020-11|4 8 16|
NVIDIA A100-PCIE-40GB|A100 40GB|PCIe|40|1555|312000|250|2020-06||
NVIDIA A100 80GB PCIe|A100 80GB|PCIe|80|1935|312000|300|2021-06||
NVIDIA A800-SXM4-80GB|A800 80GB|SXM4|80|2039|312000|400|2022-11|8|export
NVIDIA A800 80GB PCIe|A800 80GB|PCIe|80|1935|312000|300|2022-11||export
NVIDIA H100 80GB HBM3|H100|SXM5|80|3350|989500|700|2022-10|4 8|
NVIDIA H100 PCIe|H100|PCIe|80|2000|756000|350|2022-10||
NVIDIA H100 NVL|H100 NVL|PCIe|94|3900|835500|400|2023-11||
NVIDIA H800|H800|SXM5|80|3350|989500|700|2023-03|8|export
NVIDIA H800 PCIe|H800|PCIe|80|2000|756000|350|2023-03||export
NVIDIA H20|H20|SXM5|96|4000|148000|400|2024-02|8|export
NVIDIA H20-3e|H20 141GB|SXM5|141|4800|148000|400|2025-01|8|export
NVIDIA H200|H200|SXM5|141|4800|989500|700|2024-06|4 8|
NVIDIA H200 NVL|H200 NVL|PCIe|141|4800|835500|600|2024-11||
NVIDIA GH200 480GB|GH200 96GB|Superchip|96|4000|989500|1000|2023-08||
NVIDIA GH200 144G HBM3e|GH200 144GB|Superchip|144|4900|989500|1000|2024-06||
NVIDIA B200|B200|SXM6|180|8000|2250000|1000|2024-11|8|
NVIDIA B300 SXM6 AC|B300|SXM6|288|8000|2250000|1100|2025-08|8|
NVIDIA GB200|GB200|Superchip|186|8000|2500000|1200|2025-02||
NVIDIA GB300|GB300|Superchip|288|8000|2500000|1400|2025-08||
NVIDIA L4|L4|PCIe|24|300|121000|72|2023-03||
NVIDIA L20|L20|PCIe|48|864|119500|275|2023-11||export
NVIDIA L40|L40|PCIe|48|864|181000|300|2022-10||
NVIDIA L40S|L40S|PCIe|48|864|362000|350|2023-10||
Quadro RTX 4000|Quadro RTX 4000|PCIe|8|416|57000|160|2018-11||
Quadro RTX 5000|Quadro RTX 5000|PCIe|16|448|89200|265|2018-11||
Quadro RTX 6000|Quadro RTX 6000|PCIe|24|672|130500|295|2018-11||
Quadro RTX 8000|Quadro RTX 8000|PCIe|48|672|130500|295|2018-11||
NVIDIA RTX A4000|RTX A4000|PCIe|16|448|76700|140|2021-04||
NVIDIA RTX A4500|RTX A4500|PCIe|20|640|94600|200|2021-11||
NVIDIA RTX A5000|RTX A5000|PCIe|24|768|111100|230|2021-04||
NVIDIA RTX A6000|RTX A6000|PCIe|48|768|154800|300|2020-12||
NVIDIA RTX 2000 Ada Generation|RTX 2000 Ada|PCIe|16|224|48000|70|2024-02||
NVIDIA RTX 4000 Ada Generation|RTX 4000 Ada|PCIe|20|360|81900|130|2023-08||
NVIDIA RTX 4500 Ada Generation|RTX 4500 Ada|PCIe|24|432|158500|210|2023-08||
NVIDIA RTX 5000 Ada Generation|RTX 5000 Ada|PCIe|32|576|261100|250|2023-08||
NVIDIA RTX 6000 Ada Generation|RTX 6000 Ada|PCIe|48|960|364200|300|2022-12||
NVIDIA RTX PRO 6000 Blackwell Server Edition|RTX PRO 6000|PCIe|96|1597|500000|600|2025-05||
NVIDIA RTX PRO 6000 Blackwell Workstation Edition|RTX PRO 6000 Workstation|PCIe|96|1792|500000|600|2025-05||
NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition|RTX PRO 6000 Max-Q|PCIe|96|1792|438900|300|2025-05||
NVIDIA GeForce RTX 2070|RTX 2070|PCIe|8|448|59700|175|2018-10||
NVIDIA GeForce RTX 2070 SUPER|RTX 2070 Super|PCIe|8|448|72500|215|2019-07||
NVIDIA GeForce RTX 2080|RTX 2080|PCIe|8|448|80500|215|2018-09||
NVIDIA GeForce RTX 2080 SUPER|RTX 2080 Super|PCIe|8|496|89200|250|2019-07||
NVIDIA GeForce RTX 2080 Ti|RTX 2080 Ti|PCIe|11|616|107600|250|2018-09||
NVIDIA GeForce RTX 3060 Ti|RTX 3060 Ti|PCIe|8|448|64800|200|2020-12||
NVIDIA GeForce RTX 3070|RTX 3070|PCIe|8|448|81300|220|2020-10||
NVIDIA GeForce RTX 3070 Ti|RTX 3070 Ti|PCIe|8|608|87000|290|2021-06||
NVIDIA GeForce RTX 3080|RTX 3080|PCIe|10|760|119000|320|2020-09||
NVIDIA GeForce RTX 3080 Ti|RTX 3080 Ti|PCIe|12|912|136000|350|2021-06||
NVIDIA GeForce RTX 3090|RTX 3090|PCIe|24|936|142000|350|2020-09||
NVIDIA GeForce RTX 3090 Ti|RTX 3090 Ti|PCIe|24|1008|160000|450|2022-03||
NVIDIA GeForce RTX 4070|RTX 4070|PCIe|12|504|116600|200|2023-04||
NVIDIA GeForce RTX 4070 Ti|RTX 4070 Ti|PCIe|12|504|160400|285|2023-01||
NVIDIA GeForce RTX 4080|RTX 4080|PCIe|16|717|194900|320|2022-11||
NVIDIA GeForce RTX 4080 SUPER|RTX 4080 Super|PCIe|16|736|208900|320|2024-01||
NVIDIA GeForce RTX 4090|RTX 4090|PCIe|24|1008|330300|450|2022-10||
NVIDIA GeForce RTX 4090 D|RTX 4090 D|PCIe|24|1008|294000|425|2023-12||export
NVIDIA GeForce RTX 5080|RTX 5080|PCIe|16|960|225100|360|2025-01||
NVIDIA GeForce RTX 5090|RTX 5090|PCIe|32|1792|419000|575|2025-01||
"""
"""driver's name | model | form factor | GB | GB/s | GFLOPS | W | month | boards | export."""


def _read(line: str) -> tuple[str, Product, Specs]:
    name, model, form, memory, bandwidth, gflops, power, month, boards, export = line.split("|")
    return (
        name,
        Product(model, form),
        Specs(
            asset_class=asset_class(model),
            memory_gb=int(memory),
            bandwidth_gb_s=int(bandwidth),
            fp16_gflops=int(gflops),
            power_max_w=int(power),
            released=date.fromisoformat(f"{month}-01"),
            boards=tuple(int(one) for one in boards.split()),
            export=bool(export),
        ),
    )


_ROWS: Final = tuple(_read(line) for line in _TABLE.strip().splitlines())
PRODUCTS: Final = MappingProxyType({name: product for name, product, _ in _ROWS})
"""By the driver's name."""
SPECS: Final = MappingProxyType({product: specs for _, product, specs in _ROWS})
BY_NAME: Final = MappingProxyType({str(product): product for product in SPECS})
"""By the name that parameters and files write: model and form factor."""

_DIES: Final = MappingProxyType(
    dict.fromkeys(("H100", "H100 NVL", "H800", "H20", "H20 141GB", "H200", "H200 NVL"), "GH")
    | dict.fromkeys(("GH200 96GB", "GH200 144GB"), "GH")
    | dict.fromkeys(("B200", "B300", "GB200", "GB300"), "GB")
    | dict.fromkeys(("RTX PRO 6000", "RTX PRO 6000 Workstation", "RTX PRO 6000 Max-Q"), "GB")
)
"""How the name of a model's die begins, where it can sign: GH is Hopper, GB Blackwell. In devices'
certificates GH100 and GB100 were seen; the others of a generation are not told from each other."""


@lru_cache(maxsize=4_096)
def may_be(name: str | None, chip: str) -> bool:
    """Whether a GPU that its driver gives this name can have the die that its certificate names.

    A product that is not in the table can have any: it has no value either.
    """
    product = product_of(name)
    return product is None or chip.startswith(_DIES.get(product.model, "no die that signs"))


def product_of(name: str | None) -> Product | None:
    """The product a driver's name stands for; None where the table does not know it."""
    return PRODUCTS.get(name) if name is not None else None
