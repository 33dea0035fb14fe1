"""The roots of TPM vendors' EK certificates: known by fingerprint, so a host may send the certificate itself.

A table of facts: SHA-256 of each certificate's DER, whose TPMs it stands for, and what sort of TPMs these are. Where a
root lies under another one, or is itself signed with SHA-1, what stands here is believed for its bytes and its own
signature is not looked at. How an entry gets in is told in docs/decisions/0017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DISCRETE, FIRMWARE, VIRTUAL, SIMULATED, UNKNOWN = "discrete", "firmware", "virtual", "simulated", "unknown"
"""Kinds of TPM: a chip of its own; a program in the processor or its chip set; one that a cloud's hypervisor runs; one
that stands for nothing; one whose root the manager's operator added."""
MIXED = ""
"""The root certifies several makers' TPMs: its kind is that of the manufacturer which the EK certificate names."""


@dataclass(frozen=True, slots=True)
class Root:
    """`vendor` is whose TPMs it stands for, `name` the certificate's own, `kind` one of the above."""

    vendor: str
    name: str
    kind: str


_TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("AMD", FIRMWARE): {
        "14aac9fd58471a612afd75d8c0955daf99f091b1863702f9e0d4113faf234f9d": "AMDTPM ECC",
        "67bd2472a546751caca5f358a78f80727531671338960a9bcfdfbe6a34d0c6a1": "AMDTPM RSA",
        "b73f14dea3bdaa0be87440de3fc718c771f2cbf8b7b2231c6ea228d3b20860ef": "AMDTPM RSA, earlier",
        "c2cb57bf723c174f166c5aa1dc64160981054bee18c70eb1debfc1518afa92d2": "AMDTPM ECC, earlier",
        "593a1794f9e17476c7ad427d2908a97c451451c9e0939fdc80d5d662c232d401": "AMD Pluton Global Factory ICA",
    },
    ("Alibaba Cloud", VIRTUAL): {
        "141805f04cd9b89bfbcd30cb792d5ca3a0a2382db6ee35720e6e27e4189e43a0": "Aliyun TPM EKMF CA",
    },
    ("Google Cloud", VIRTUAL): {
        "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2": "EK/AK CA Root",
        "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf": "tpm_ek_v1_cloud_host_root",
    },
    ("Infineon", DISCRETE): {
        "10ef22859b0a98121129aa0c4647a91fd412a5a79f1c628db3bfea4278d49abf": "IFX TPM EK Intermediate CA 01",
        "b33027e90f3f47bb5c0c54b18451121af0211a568eca51b68927280707b42f0e": "IFX TPM EK Intermediate CA 02",
        "2b2ab3993b854e496569fd1f187a383617eec1574bef0fa8c34bc013da40935f": "IFX TPM EK Intermediate CA 03",
        "c2b50c0544fbfae3f8257410818bd2228759c04150989982c1b42c397abf00a8": "IFX TPM EK Intermediate CA 04",
        "ed80849cf19acd6df5895ab47c6ec91555a3081b4696b900f8e346e777177aed": "IFX TPM EK Intermediate CA 05",
        "608dd48ff87759f404917c7471ec8cbe7ad972c1699d810f0e1a70fb2b02573f": "IFX TPM EK Intermediate CA 08",
        "8a3e7db4445c4a795fb9e524db3ed2edf96f8423723f16ff5f71ca6b84a3e88c": "IFX TPM EK Intermediate CA 15",
        "cb1a77acd98db771d35b1977eb82485f0e0f64f6deb0577a97330b5b532eb7ed": "IFX TPM EK Intermediate CA 17",
        "9cd83ef4897819d545d3cccccf33ba7947e34439a93c5d45a3f136303e1c248e": "IFX TPM EK Intermediate CA 18",
        "73a42ded6eab007af264a51c5a3956092cdbf5a6d209303a4e0d57416d762067": "IFX TPM EK Intermediate CA 20",
        "014df370f125f4bc18c9fc4b41c17ec2311e8514fc9b622f5a633c10287c1ebd": "IFX TPM EK Intermediate CA 21",
        "cbbc0439c1c48e4e1bee1904799be78cc321b41be4af6d961b26d191f948a0b7": "IFX TPM EK Intermediate CA 25",
        "fd9f74383f7a915755b5a656e6acde5a3c2e39bd2632ff03e4e8384f417e37cc": "IFX TPM EK Intermediate CA 29",
        "3e7e1adda311b09e1852b3e14113962f30482d9c62c5d46d49736b7584c7890a": "IFX TPM EK Intermediate CA 48",
        "6dbe4ce5a73c2155a6bcd7437ad1100af6c648151bce32ca5f056cb3e8a9f578": "IFX TPM EK Intermediate CA 49",
        "dae8b3c1bd0781786ffbe17355c0e35a4beec4eb08b3c9df091f4fe18429ee2e": "IFX TPM EK Intermediate CA 53",
        "72e9d37d3ef49f2a0afdd4f7c93e1ef8be7013a0ea81d10c7a26cad192d01727": "IFX TPM EK Intermediate CA 54",
        "ed9758fec62fc60fbdc0c661bb40850025223f01e853351a0c14139f0ad3d807": "IFX TPM EK Intermediate CA 62",
        "db453a8f49a5d26f7f83d2f6c6f78b19f94d8f94abd8bfba35b17c90acfe1ee8": "IFX TPM EK Intermediate CA 63",
        "7df2c3751c03ce003e99174d9cb2559f57a1b05b1920dd30bb6f8dfcf17f5e62": "IFX TPM EK Root CA",
        "cfeb02fecd55ad7a73c6e1d11985d4c47dee248ab63dcb66091a2489660443c3": "Infineon OPTIGA(TM) ECC Root CA",
        "ee0c827555c4e9012037df4257bb8aaa26084a17b13ede41cd7895c8d6c11190": "Infineon OPTIGA(TM) ECC Root CA 2",
        "899e35474c9807eb4c7f2f7a12da0028fb250cd02154d0009fca7d9c66574f3b": "Infineon OPTIGA(TM) RSA Root CA",
        "b413c71580af3ec5efe83fad31db2d4af4612355e3b01e50903b10763d738894": "Infineon OPTIGA(TM) RSA Root CA 2",
        "967bb3d4544ea2740fce338077e1f5a9ea3085667246e6b968294aa045a57549": "VeriSign Trusted Platform Module Root CA",
    },
    ("Intel", FIRMWARE): {
        "beb40bb7507b33967226aa80e084749fbb6593893c642e818d682e9a8d07fc24": "OnDie CA Root Cert Signing",
        "2e1b3ba79af56d758be51697621bc4b9e8cee0983db3e749c55eb9b37c6d2ae0": "TPM EK root cert signing",
    },
    ("Microsoft", FIRMWARE): {
        "32ab5fe7cb4396659fcb621ca14c6fb8fc2420f64050637d77e45a86c5d3916e": "Microsoft Pluton Root CA 2021",
    },
    ("Microsoft", MIXED): {
        "870c7a35ceab3d59979f2c6a524042d404cb71518004350925fb2ced79a999da": "Microsoft TPM Root Certificate Authority 2014",
    },
    ("Microsoft Azure", VIRTUAL): {
        "e6c596b17f8ffefba5c300f714cfb1260c6028704ecf7becc4ab5018efb00e95": "Azure Virtual TPM Root Certificate Authority 2023",
    },
    ("NSING", DISCRETE): {
        "6ccf8a8a803d07a002a15d4889ffa0b125e4a82a1fe4211db3c6e8592919f9dc": "NSING TPM ECC ROOT CA 001",
        "72ca00612395af027cd84c5514219f110e964dfa0bfc1efbb3ac147e3b173971": "NSING TPM RSA ROOT CA 001",
    },
    ("Nationz", DISCRETE): {
        "1293d71d6f61c86b98102fd3d4085ff12538f108e925489c0d545059e5f89c36": "Nationz TPM Root CA",
    },
    ("Nuvoton", DISCRETE): {
        "083e7bd13e8fe0bb9b0c64db9e0c8356681df65714d2d5c4925eb98ae1369d40": "NPCTxxx ECC521 RootCA",
        "56b67007f448bd5c5746299fcdea9323971bbdaaefd8e3b9b84773abc888c90e": "NTC TPM EK Root CA 01",
        "8fac94b462b37acb84431bdc71395585caf518c17f656051ff9c4347a4726ed9": "NTC TPM EK Root CA 02",
        "887bc9658ffc6ad7f4eeb85c8819772ff609ee64c4dac4a6dca654a39e94b289": "Nuvoton TPM Root CA 0100",
        "2782e51a95e86d9557fe4204316cf805bd6f5898f81f9732e944d742bcdc5f54": "Nuvoton TPM Root CA 1110",
        "e38c280f7c0e0b49f31efc7531032bb6a86c3fba4eb89beb1d510eaa4510ae4a": "Nuvoton TPM Root CA 1111",
        "4aebe77a51ed29959a7f9f5e07a24a558dee8167f3985d724995a541c258dfda": "Nuvoton TPM Root CA 2110",
        "cd8185ff8995ed09811970090a8c36fafab34ef87f47fa51fdb9ecf95c9c2e04": "Nuvoton TPM Root CA 2111",
        "66e3a1013d4f697700f731e7d68c69b58351f90ec9580d85862d020ab4abf1af": "Nuvoton TPM Root CA 2112",
        "ba70a6ea7b77c7fee8947a07b1e70e0b26d39ce5e6307f63d5e4b9507f19a157": "NuvotonTPMRootCA1210",
        "fc61abbc18100f460205ebe09d8c3e6995ac2be2234344a7facb62e15f9a7584": "NuvotonTPMRootCA2210",
        "2bbc5db224b8f28a6d2cf336d4da7ab21c8c490e3d60ef497801dc0b6ac00227": "NuvotonTPMRootCA2211",
    },
    ("STMicroelectronics", DISCRETE): {
        "5a8c7b5eb888cfce9322068e80e82b28b554ffeb7fdc9638dcb3763077401d26": "GlobalSign Trusted Platform Module ECC Root CA",
        "f27bf02c6e00c73d915eeb6a6a2f5fbf0c31ae0393149e6b5c31e41b113841c3": "GlobalSign Trusted Platform Module Root CA",
        "c541d7e5b9e3f935621acbd403896225ec641036c9ae3b5f7ac793a606ff9b79": "STM TPM ECC Root CA 01",
        "f8e37a86b689a20a6cc0c40cc3f81fb130fa9f44ce7ffa60d62590aaf87273a9": "STM TPM EK Root CA",
        "fd1e7b68accd825636b27b3177c67402d463a7f04c97b6c47ab705fcdc1a04f6": "STSAFE ECC Root CA 02",
        "c8f179943356e13d9d84b100201cefabbf408880241e5329e60d950ce1dea623": "STSAFE RSA Root CA 02",
    },
}
KNOWN_ROOTS: Mapping[str, Root] = MappingProxyType(
    {
        fingerprint: Root(vendor, name, kind)
        for (vendor, kind), roots in _TABLE.items()
        for fingerprint, name in roots.items()
    }
)
"""SHA-256 of the DER in hex: the root."""

WITHOUT_EXTENDED_USAGE = frozenset({"594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2"})
"""Roots (Google's EK/AK CA) whose EK certificates have no extended key usage: the key usage alone tells EK from AK."""
