/* A GPU that is cut up: its instances, and the handles that speak for one of them.
 *
 * The capture of an H100 in MIG mode shows one compute instance in each GPU instance, which is all
 * the shim knows. A handle is good for as long as an instance of its number exists.
 */
#include <stdio.h>

#include "shim.h"

enum { MIG_DEVICES_MAX = 7, INVENTED_MIB = 1024, INVENTED_MULTIPROCESSORS = 16 };

static bool mig_on(const struct gpu *gpu)
{
    return gpu->value[K_mig_mode] == 1;
}

static int instance_count(const struct gpu *gpu)
{
    if (!mig_on(gpu))
        return 0;
    return gpu->value[K_mig_invented] > 0 ? (int)gpu->value[K_mig_invented] : gpu->instances_count;
}

static struct instance instance_at(const struct gpu *gpu, int index)
{
    if (gpu->value[K_mig_invented] > 0)
        return (struct instance){index, INVENTED_MIB, 0, INVENTED_MULTIPROCESSORS};
    return gpu->instances[index];
}

bool mig_instance(const struct gpu *gpu, int id, struct instance *instance)
{
    for (int i = 0; i < instance_count(gpu); i++) {
        *instance = instance_at(gpu, i);
        if (instance->id == id)
            return true;
    }
    return false;
}

/* Calls that take an instance's handle; the others answer NOT_SUPPORTED. */
bool mig_admits(enum function function)
{
    switch (function) {
    case FN_nvmlDeviceIsMigDeviceHandle:
    case FN_nvmlDeviceGetDeviceHandleFromMigDeviceHandle:
    case FN_nvmlDeviceGetGpuInstanceId:
    case FN_nvmlDeviceGetComputeInstanceId:
    case FN_nvmlDeviceGetAttributes_v2:
    case FN_nvmlDeviceGetMemoryInfo:
    case FN_nvmlDeviceGetMemoryInfo_v2:
    case FN_nvmlDeviceGetName:
    case FN_nvmlDeviceGetUUID:
    case FN_nvmlGpuInstanceGetInfo:
        return true;
    default:
        return false;
    }
}

/* Sevenths of the GPU, by its multiprocessors; the profile numbers are those of A100 and H100. */
static unsigned int slices(const struct instance *instance)
{
    unsigned int sevenths = instance->multiprocessors / 16;

    return sevenths < 1 ? 1 : sevenths > 7 ? 7 : sevenths;
}

static unsigned int profile_id(const struct instance *instance)
{
    static const unsigned int BY_SLICES[] = {0, 19, 14, 9, 5, 5, 5, 0};

    return BY_SLICES[slices(instance)];
}

NVML_API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *mode,
                                           unsigned int *pending)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetMigMode, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!mode || !pending)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_mig_mode, &value);
    if (result == NVML_SUCCESS)
        *mode = *pending = (unsigned int)value;
    return call_end(&call, result);
}

/* Seven where MIG exists, none elsewhere, unless the scenario says. */
static unsigned int device_max(const struct gpu *gpu)
{
    if (gpu->value[K_mig_device_max] != AUTO)
        return (unsigned int)gpu->value[K_mig_device_max];
    if (gpu->value[K_mig_mode] == N_A)
        return 0;
    return instance_count(gpu) > MIG_DEVICES_MAX ? (unsigned int)instance_count(gpu)
                                                 : MIG_DEVICES_MAX;
}

NVML_API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetMaxMigDeviceCount, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!count)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *count = device_max(call.gpu);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                          nvmlDevice_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetMigDeviceHandleByIndex, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (call.gpu->value[K_mig_mode] == N_A)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    if (index >= device_max(call.gpu))
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if ((int)index >= instance_count(call.gpu))
        return call_end(&call, NVML_ERROR_NOT_FOUND);
    *out = handle_of(call.scenario, call.slot, instance_at(call.gpu, (int)index).id);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device,
                                                                   nvmlDevice_t *out)
{
    struct call call;
    nvmlReturn_t result =
        call_begin_gpu(&call, FN_nvmlDeviceGetDeviceHandleFromMigDeviceHandle, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out || call.instance.id == INSTANCE_NONE)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = handle_of(call.scenario, call.slot, INSTANCE_NONE);
    return call_end(&call, NVML_SUCCESS);
}

enum about { IS_INSTANCE, GPU_INSTANCE, COMPUTE_INSTANCE };

static nvmlReturn_t number(enum function function, nvmlDevice_t device, enum about about,
                           unsigned int *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out || (about != IS_INSTANCE && call.instance.id == INSTANCE_NONE))
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = about == IS_INSTANCE    ? call.instance.id != INSTANCE_NONE
           : about == GPU_INSTANCE ? (unsigned int)call.instance.id
                                   : 0;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *out)
{
    return number(FN_nvmlDeviceIsMigDeviceHandle, device, IS_INSTANCE, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *out)
{
    return number(FN_nvmlDeviceGetGpuInstanceId, device, GPU_INSTANCE, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *out)
{
    return number(FN_nvmlDeviceGetComputeInstanceId, device, COMPUTE_INSTANCE, out);
}

/* nvml.h: "This API currently only supports MIG device handles". */
NVML_API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetAttributes_v2, device);
    unsigned int engines;

    if (result != NVML_SUCCESS)
        return result;
    if (call.instance.id == INSTANCE_NONE)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    engines = slices(&call.instance);
    *out = (nvmlDeviceAttributes_t){.multiprocessorCount = call.instance.multiprocessors,
                                    .sharedCopyEngineCount = engines,
                                    .sharedDecoderCount = engines,
                                    .sharedJpegCount = engines,
                                    .gpuInstanceSliceCount = engines,
                                    .computeInstanceSliceCount = engines,
                                    .memorySizeMB = (unsigned long long)call.instance.memory_mib};
    return call_end(&call, NVML_SUCCESS);
}

/* nvml.h asks for a privileged user for the next two: let them answer 4 to play another. */
NVML_API nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int profile,
                                                nvmlGpuInstance_t *out, unsigned int *count)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetGpuInstances, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out || !count)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (!mig_on(call.gpu))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *count = 0;
    for (int i = 0; i < instance_count(call.gpu); i++) {
        struct instance instance = instance_at(call.gpu, i);

        if (profile_id(&instance) == profile)
            out[(*count)++] = handle_of(call.scenario, call.slot, instance.id);
    }
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id,
                                                   nvmlGpuInstance_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetGpuInstanceById, device);
    struct instance instance;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (!mig_on(call.gpu))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    if (!mig_instance(call.gpu, (int)id, &instance))
        return call_end(&call, NVML_ERROR_NOT_FOUND);
    *out = handle_of(call.scenario, call.slot, instance.id);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance,
                                             nvmlGpuInstanceInfo_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlGpuInstanceGetInfo, instance);

    if (result != NVML_SUCCESS)
        return result;
    if (!out || call.instance.id == INSTANCE_NONE)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = (nvmlGpuInstanceInfo_t){.device = handle_of(call.scenario, call.slot, INSTANCE_NONE),
                                   .id = (unsigned int)call.instance.id,
                                   .profileId = profile_id(&call.instance),
                                   .size = slices(&call.instance)};
    return call_end(&call, NVML_SUCCESS);
}
