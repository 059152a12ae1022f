/* What a GPU is: its names, its numbers, its place, its modes. */
#include <stdio.h>
#include <string.h>

#include "shim.h"

ANSWER_TEXT(nvmlDeviceGetSerial, serial)
ANSWER_TEXT(nvmlDeviceGetBoardPartNumber, board_part_number)
ANSWER_TEXT(nvmlDeviceGetVbiosVersion, vbios_version)
ANSWER_TEXT(nvmlDeviceGetInforomImageVersion, inforom_image_version)

ANSWER_U32(nvmlDeviceGetBoardId, board_id)
ANSWER_U32(nvmlDeviceGetModuleId, module_id)
ANSWER_U32(nvmlDeviceGetMinorNumber, minor_number)
ANSWER_U32(nvmlDeviceGetArchitecture, architecture)
ANSWER_U32(nvmlDeviceGetBrand, brand)
ANSWER_U32(nvmlDeviceGetNumGpuCores, cuda_cores)
ANSWER_U32(nvmlDeviceGetMemoryBusWidth, memory_bus_width_bits)
ANSWER_U32(nvmlDeviceGetVirtualizationMode, virtualization_mode)
ANSWER_U32(nvmlDeviceGetPersistenceMode, persistence_mode)
ANSWER_U32(nvmlDeviceGetComputeMode, compute_mode)
ANSWER_U32(nvmlDeviceGetInforomConfigurationChecksum, inforom_checksum)

/* An instance has a name and a UUID of its own: its share and GPU, its GPU's digits with its own
 * number first. */
static nvmlReturn_t name_or_uuid(enum function function, nvmlDevice_t device, enum text text,
                                 char *out, unsigned int length)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);
    char own[TEXT_MAX + 32];

    if (result != NVML_SUCCESS)
        return result;
    if (call.gpu->text[text][0] == '\0')
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    if (call.instance.id == INSTANCE_NONE)
        snprintf(own, sizeof own, "%s", call.gpu->text[text]);
    else if (text == T_uuid)
        snprintf(own, sizeof own, "MIG-%08x-%.60s", (unsigned int)call.instance.id,
                 call.gpu->text[T_uuid] + strcspn(call.gpu->text[T_uuid], "-") + 10);
    else
        snprintf(own, sizeof own, "%s MIG %dg.%dgb", call.gpu->text[T_name],
                 (int)call.instance.multiprocessors / 16, (int)(call.instance.memory_mib / 1000));
    return call_end(&call, copy_text(own, out, length));
}

NVML_API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned int length)
{
    return name_or_uuid(FN_nvmlDeviceGetName, device, T_name, out, length);
}

NVML_API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned int length)
{
    return name_or_uuid(FN_nvmlDeviceGetUUID, device, T_uuid, out, length);
}

/* Objects: 0 OEM, 1 ECC, 2 power management, which the captures say is absent. */
NVML_API nvmlReturn_t nvmlDeviceGetInforomVersion(nvmlDevice_t device, unsigned int object,
                                                  char *out, unsigned int length)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetInforomVersion, device);
    const char *text;

    if (result != NVML_SUCCESS)
        return result;
    if (object > 3)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (object > 1)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    text = call.gpu->text[object == 0 ? T_inforom_oem_version : T_inforom_ecc_version];
    if (*text == '\0')
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    return call_end(&call, copy_text(text, out, length));
}

NVML_API nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceValidateInforom, device);
    int64_t valid;

    if (result != NVML_SUCCESS)
        return result;
    result = gpu_value(&call, K_inforom_valid, &valid);
    if (result == NVML_SUCCESS && !valid)
        result = NVML_ERROR_CORRUPTED_INFOROM;
    return call_end(&call, result);
}

/* The firmware comes with the driver and carries its version, as in all the captures. */
NVML_API nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetGspFirmwareVersion, device);

    if (result != NVML_SUCCESS)
        return result;
    return call_end(&call, copy_text(call.scenario->host.driver_version, out, 64));
}

struct place {
    unsigned int domain, bus, device, function;
};

static struct place place_of(const struct gpu *gpu)
{
    struct place place = {0};

    sscanf(gpu->text[T_pci_bus_id], "%x:%x:%x.%x", &place.domain, &place.bus, &place.device,
           &place.function);
    return place;
}

static nvmlReturn_t pci_info(enum function function, nvmlDevice_t device, bool with_bus_id,
                             nvmlPciInfo_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);
    struct place place;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    place = place_of(call.gpu);
    snprintf(out->busIdLegacy, sizeof out->busIdLegacy, "%04X:%02X:%02X.%X",
             place.domain & 0xFFFF, place.bus & 0xFF, place.device & 0xFF, place.function & 0xF);
    out->domain = place.domain;
    out->bus = place.bus;
    out->device = place.device;
    out->pciDeviceId = (unsigned int)call.gpu->value[K_pci_device_id];
    out->pciSubSystemId = (unsigned int)call.gpu->value[K_pci_subsystem_id];
    if (with_bus_id) /* the older structure ends in four reserved words here */
        snprintf(out->busId, sizeof out->busId, "%08X:%02X:%02X.%X", place.domain,
                 place.bus & 0xFF, place.device & 0xFF, place.function & 0xF);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *out)
{
    return pci_info(FN_nvmlDeviceGetPciInfo, device, false, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *out)
{
    return pci_info(FN_nvmlDeviceGetPciInfo_v2, device, false, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *out)
{
    return pci_info(FN_nvmlDeviceGetPciInfo_v3, device, true, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetPciInfoExt, device);
    struct place place;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    place = place_of(call.gpu);
    out->domain = place.domain;
    out->bus = place.bus;
    out->device = place.device;
    out->pciDeviceId = (unsigned int)call.gpu->value[K_pci_device_id];
    out->pciSubSystemId = (unsigned int)call.gpu->value[K_pci_subsystem_id];
    out->baseClass = 0x3;
    out->subClass = 0x2;
    snprintf(out->busId, sizeof out->busId, "%08X:%02X:%02X.%X", place.domain, place.bus & 0xFF,
             place.device & 0xFF, place.function & 0xF);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetPdi(nvmlDevice_t device, nvmlPdi_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetPdi, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    result = gpu_value(&call, K_pdi, &value);
    if (result == NVML_SUCCESS)
        out->value = (unsigned long long)value;
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetIndex, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = (unsigned int)index_of(call.scenario, call.slot);
    return call_end(&call, NVML_SUCCESS);
}

static nvmlReturn_t answer_zero(enum function function, nvmlDevice_t device, unsigned int *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = 0;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned int *out)
{
    return answer_zero(FN_nvmlDeviceGetMultiGpuBoard, device, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, unsigned int *out)
{
    return answer_zero(FN_nvmlDeviceGetDisplayActive, device, out);
}

/* "Requested functionality has been deprecated" in every capture. */
NVML_API nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, unsigned int *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetDisplayMode, device);

    (void)out;
    return result != NVML_SUCCESS ? result : call_end(&call, 26);
}

NVML_API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major,
                                                         int *minor)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetCudaComputeCapability, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!major || !minor)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *major = (int)call.gpu->value[K_compute_capability_major];
    *minor = (int)call.gpu->value[K_compute_capability_minor];
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetPlatformInfo(nvmlDevice_t device, nvmlPlatformInfo_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetPlatformInfo, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 2))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    /* The captures answer this call: no chassis, slot 0, tray 0, host 1, directly connected. */
    memset(&out->ibGuid, 0, sizeof *out - offsetof(nvmlPlatformInfo_t, ibGuid));
    snprintf(out->chassisSerialNumber, sizeof out->chassisSerialNumber, "%.15s",
             call.gpu->text[T_chassis_serial]);
    out->slotNumber = (unsigned char)call.gpu->value[K_platform_slot_number];
    out->trayIndex = (unsigned char)call.gpu->value[K_platform_tray_index];
    out->hostId = (unsigned char)call.gpu->value[K_platform_host_id];
    out->moduleId = (unsigned char)call.gpu->value[K_module_id];
    return call_end(&call, NVML_SUCCESS);
}
