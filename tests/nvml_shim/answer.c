/* The shapes most calls share: one number, one text. */
#include <string.h>

#include "shim.h"

nvmlReturn_t gpu_value(const struct call *call, enum key key, int64_t *value)
{
    *value = call->gpu->value[key];
    return *value == N_A ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

nvmlReturn_t answer_u32(enum function function, nvmlDevice_t device, enum key key,
                        unsigned int *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, key, &value);
    if (result == NVML_SUCCESS)
        *out = (unsigned int)value;
    return call_end(&call, result);
}

nvmlReturn_t copy_text(const char *text, char *out, unsigned int length)
{
    size_t needed = strlen(text) + 1;

    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (length < needed)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, needed);
    return NVML_SUCCESS;
}

/* An empty text is one the GPU does not have. */
nvmlReturn_t answer_text(enum function function, nvmlDevice_t device, enum text text, char *out,
                         unsigned int length)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);

    if (result != NVML_SUCCESS)
        return result;
    if (call.gpu->text[text][0] == '\0')
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    return call_end(&call, copy_text(call.gpu->text[text], out, length));
}

/* With MIG on, the capture of an H100 shows no utilisation and no remapped rows. */
bool mig_hides(const struct call *call)
{
    return call->gpu->value[K_mig_mode] == 1;
}

int64_t ecc_total(const struct gpu *gpu, bool uncorrected, bool aggregate)
{
    const int64_t *v = gpu->value;

    if (!uncorrected)
        return aggregate ? v[K_ecc_dram_corrected_aggregate] + v[K_ecc_sram_corrected_aggregate]
                         : v[K_ecc_dram_corrected_volatile] + v[K_ecc_sram_corrected_volatile];
    return aggregate ? v[K_ecc_dram_uncorrected_aggregate] + v[K_ecc_sram_parity_aggregate] +
                           v[K_ecc_sram_secded_aggregate]
                     : v[K_ecc_dram_uncorrected_volatile] + v[K_ecc_sram_parity_volatile] +
                           v[K_ecc_sram_secded_volatile];
}
