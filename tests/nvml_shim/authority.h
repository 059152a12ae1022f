/* The way to a test's device authority, which signs as a GPU does; tests/fakes/attesting.py serves
 * it. A question is one byte what, one byte which GPU, and 32 bytes of nonce. The answer is a return
 * code and a size, 32 bits each in little-endian, and then bytes to the end of the connection. The
 * size is what the authority says that there is, which need not be what comes.
 */
#ifndef ASSAY_AUTHORITY_H
#define ASSAY_AUTHORITY_H

#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NONCE_BYTES 32

enum authority_question {
    ASK_CHAIN_PEM = 'C', /* as NVML gives it */
    ASK_CHAIN_SPDM = 'D', /* as SPDM has it: a header, then DER, the root's first */
    ASK_REPORT = 'R',
    ASK_COUNT = 'G', /* the size is how many GPUs there are */
};

struct authority_answer {
    uint32_t code, said;
    size_t got; /* bytes that came, at most the room there was */
};

static inline size_t read_all(int from, void *out, size_t most)
{
    size_t got = 0;
    ssize_t more;

    while (got < most && (more = read(from, (char *)out + got, most - got)) > 0)
        got += (size_t)more;
    return got;
}

/* 0, or -1 where nobody answers. */
static inline int authority_ask(const char *path, enum authority_question what, int gpu,
                                const unsigned char *nonce, struct authority_answer *answer,
                                void *out, size_t room)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    unsigned char question[2 + NONCE_BYTES] = {(unsigned char)what, (unsigned char)gpu}, head[8];
    int to = strlen(path) < sizeof address.sun_path ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
                                                    : -1;
    int result = -1;

    if (to < 0)
        return -1;
    strcpy(address.sun_path, path);
    if (nonce)
        memcpy(question + 2, nonce, NONCE_BYTES);
    if (connect(to, (struct sockaddr *)&address, sizeof address) == 0 &&
        write(to, question, sizeof question) == sizeof question &&
        read_all(to, head, sizeof head) == sizeof head) {
        answer->code = (uint32_t)head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 |
                       (uint32_t)head[3] << 24;
        answer->said = (uint32_t)head[4] | (uint32_t)head[5] << 8 | (uint32_t)head[6] << 16 |
                       (uint32_t)head[7] << 24;
        answer->got = out ? read_all(to, out, room) : 0;
        result = 0;
    }
    close(to);
    return result;
}

#endif
