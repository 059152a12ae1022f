/* The test double of NVIDIA's corelib: the eleven functions that NVIDIA's public client calls
 * (nv-attestation-sdk-cpp/src/gpu/corelib_client.cpp), with its signatures and its way of asking
 * twice, first for a size. Evidence comes from the test's device authority; ASSAY_CORELIB_AUTHORITY
 * is its socket. ASSAY_CORELIB_HANG names a function that does not return, ASSAY_CORELIB_PRINTS=1
 * lets the library print to standard output, as libraries do.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../authority.h"

#define CORELIB_API __attribute__((visibility("default")))
#define GPUS_MAX 64
#define DIGEST_BYTES 52

enum {
    SUCCESS = 0,
    FAILED = 1,
    INVALID_ARGUMENT = 2,
    BUFFER_TOO_SMALL = 3,
};

typedef struct {
    int alive;
} manager_t;

typedef struct {
    int gpu, alive;
} device_t;

typedef struct {
    int gpu, alive, fresh; /* fresh: the session was begun anew since the last exchange */
    size_t size;           /* of what was asked for last */
    unsigned char kept[0x10000];
} client_t;

typedef struct {
    uint8_t index;
    uint8_t data[DIGEST_BYTES];
} digest_t;

static int ask(enum authority_question what, int gpu, const unsigned char *nonce,
               struct authority_answer *answer, void *out, size_t room)
{
    const char *path = getenv("ASSAY_CORELIB_AUTHORITY");

    if (!path || authority_ask(path, what, gpu, nonce, answer, out, room) < 0)
        return FAILED;
    return (int)answer->code;
}

static void maybe_hang(const char *function)
{
    const char *hangs = getenv("ASSAY_CORELIB_HANG");

    while (hangs && strcmp(hangs, function) == 0)
        pause();
}

CORELIB_API int corelib_device_manager_create(manager_t **manager)
{
    maybe_hang(__func__);
    if (getenv("ASSAY_CORELIB_PRINTS")) {
        printf("corelib: a library that prints\n");
        fflush(stdout);
    }
    *manager = malloc(sizeof **manager);
    (*manager)->alive = 1;
    return SUCCESS;
}

CORELIB_API void corelib_device_manager_destroy(manager_t *manager)
{
    if (!manager->alive--)
        abort();
    free(manager);
}

CORELIB_API int corelib_device_manager_discover_inband_gpus(manager_t *manager, device_t **devices,
                                                            size_t *count)
{
    struct authority_answer answer;
    int code = ask(ASK_COUNT, 0, NULL, &answer, NULL, 0);

    if (code != SUCCESS || !manager->alive)
        return code != SUCCESS ? code : INVALID_ARGUMENT;
    if (devices && *count < answer.said)
        return BUFFER_TOO_SMALL;
    *count = answer.said;
    for (uint32_t gpu = 0; devices && gpu < answer.said; gpu++) {
        devices[gpu] = malloc(sizeof **devices);
        *devices[gpu] = (device_t){(int)gpu, 1};
    }
    return SUCCESS;
}

CORELIB_API void corelib_device_destroy(device_t *device)
{
    if (!device->alive--)
        abort();
    free(device);
}

CORELIB_API int corelib_device_get_description(device_t *device, char *buffer, size_t *size)
{
    int written = snprintf(buffer, *size, "GPU at 0000:%02x:00.0", device->gpu + 1);

    *size = (size_t)written;
    return SUCCESS;
}

CORELIB_API int corelib_spdm_client_create(device_t *device, client_t **client)
{
    *client = calloc(1, sizeof **client);
    (*client)->gpu = device->gpu;
    (*client)->alive = 1;
    return SUCCESS;
}

CORELIB_API void corelib_spdm_client_destroy(client_t *client)
{
    if (!client->alive--)
        abort();
    free(client);
}

CORELIB_API int corelib_spdm_reset_session(client_t *client)
{
    client->fresh = 1;
    return SUCCESS;
}

/* The second slot has the chain, so that whoever takes slot 0 for granted is found out. */
CORELIB_API int corelib_spdm_get_digests(client_t *client, digest_t *digests, size_t *count)
{
    client->fresh = 0;
    if (digests && *count < 1)
        return BUFFER_TOO_SMALL;
    *count = 1;
    if (digests)
        digests[0] = (digest_t){.index = 1};
    return SUCCESS;
}

/* Asked without a buffer it fetches, and says how much; asked with one it hands over. */
static int fetch(client_t *client, enum authority_question what, const unsigned char *nonce,
                 uint8_t *buffer, size_t *size)
{
    struct authority_answer answer;
    int code;

    if (!buffer) {
        if (!client->fresh)
            return FAILED;
        code = ask(what, client->gpu, nonce, &answer, client->kept, sizeof client->kept);
        if (code != SUCCESS)
            return code;
        client->size = answer.got;
        *size = answer.said;
        return SUCCESS;
    }
    if (*size < client->size)
        return BUFFER_TOO_SMALL;
    client->fresh = 0;
    *size = client->size;
    memcpy(buffer, client->kept, client->size);
    return SUCCESS;
}

CORELIB_API int corelib_spdm_get_certificate(client_t *client, uint8_t slot, uint8_t *buffer,
                                             size_t *size)
{
    maybe_hang(__func__);
    return slot == 1 ? fetch(client, ASK_CHAIN_SPDM, NULL, buffer, size) : INVALID_ARGUMENT;
}

CORELIB_API int corelib_spdm_get_measurement_transcript(client_t *client, uint8_t index,
                                                        const uint8_t *nonce, size_t nonce_bytes,
                                                        uint8_t *buffer, size_t *size)
{
    maybe_hang(__func__);
    if (index != 0xFF || nonce_bytes != NONCE_BYTES)
        return INVALID_ARGUMENT;
    return fetch(client, ASK_REPORT, nonce, buffer, size);
}
