/* Evidence that a GPU signs. Where ASSAY_SHIM_EVIDENCE names the socket of a test's device authority
 * (authority.h), certificates and reports come from there, signed anew for each nonce; without one
 * there is a chain that is no chain, and nobody signs. */
#include <stdlib.h>
#include <string.h>

#include "authority.h"
#include "shim.h"

/* Where the scenario says nothing, evidence is there in the two modes in which NVIDIA's public
 * verifiers ask for it, from Hopper on. What a real driver answers otherwise is not known to us:
 * "not supported" is judgement. */
static bool signs(const struct call *call)
{
    const struct host *host = &call->scenario->host;

    return (host->cc_feature == 1 || host->cc_multi_gpu == 1) &&
           call->gpu->value[K_architecture] >= 9;
}

/* A text that is the same for one GPU everywhere and another for every other. */
static void fill(unsigned char *out, size_t room, int64_t size, const char *serial, int twist)
{
    for (size_t i = 0; *serial && i < room && (int64_t)i < size; i++)
        out[i] = (unsigned char)(serial[i % strlen(serial)] ^ twist);
}

NVML_API nvmlReturn_t
nvmlDeviceGetConfComputeGpuCertificate(nvmlDevice_t device, nvmlConfComputeGpuCertificate_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetConfComputeGpuCertificate, device);
    const char *authority = getenv("ASSAY_SHIM_EVIDENCE"), *serial;
    struct authority_answer answer;
    int64_t size;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    size = call.gpu->value[K_attestation_certificate_bytes];
    if (size == N_A || (size == AUTO && !signs(&call)))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    memset(out, 0, sizeof *out);
    if (size == AUTO && authority) {
        if (authority_ask(authority, ASK_CHAIN_PEM, call.slot, NULL, &answer,
                          out->attestationCertChain, sizeof out->attestationCertChain) < 0)
            return call_end(&call, NVML_ERROR_TIMEOUT);
        out->attestationCertChainSize = answer.said;
        return call_end(&call, (nvmlReturn_t)answer.code);
    }
    if (size == AUTO)
        size = 3000;
    out->certChainSize = out->attestationCertChainSize = (unsigned int)size;
    serial = call.gpu->text[T_serial];
    fill(out->certChain, sizeof out->certChain, size, serial, 0);
    fill(out->attestationCertChain, sizeof out->attestationCertChain, size, serial, 1);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t
nvmlDeviceGetConfComputeGpuAttestationReport(nvmlDevice_t device,
                                             nvmlConfComputeGpuAttestationReport_t *out)
{
    struct call call;
    nvmlReturn_t result =
        call_begin_gpu(&call, FN_nvmlDeviceGetConfComputeGpuAttestationReport, device);
    const char *authority = getenv("ASSAY_SHIM_EVIDENCE");
    struct authority_answer answer;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (!signs(&call))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    if (!authority || authority_ask(authority, ASK_REPORT, call.slot, out->nonce, &answer,
                                    out->attestationReport, sizeof out->attestationReport) < 0)
        return call_end(&call, NVML_ERROR_TIMEOUT);
    out->isCecAttestationReportPresent = 0;
    out->cecAttestationReportSize = 0;
    out->attestationReportSize = answer.said;
    return call_end(&call, (nvmlReturn_t)answer.code);
}
