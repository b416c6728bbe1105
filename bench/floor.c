/* The floors under a C-STORE receiver: what a plain C loop needs on this machine.
 *
 * usage: floor MODE FILE      listens on a port of the system's choice and prints it
 *
 *   discard  receives, answers, forgets
 *   write    and writes the data sets one after the other into FILE
 *   hash     and computes CRC-32 and SHA-256 of each instance, all in one thread
 *   lane     receiver process -> shared memory -> packer process, which does what `hash` does
 *   relay    receiver process -> shared memory -> packer process, which does what `write` does
 *
 * One association at a time. After each one a line "instances bytes" goes to stdout, and FILE
 * starts over with the next. Nothing is validated: this is a floor, not a receiver.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <signal.h>
#include <unistd.h>

#ifdef WITH_EVP
#include <openssl/evp.h>
#ifdef WITH_LIBDEFLATE
#include <libdeflate.h>
#define CRC(c, p, n) libdeflate_crc32(c, p, n)
#else
#include <zlib.h>
#define CRC(c, p, n) (uint32_t)crc32(c, p, n)
#endif
#endif

enum { DISCARD, WRITE, HASH, LANE, RELAY };
enum { BUFFER = 4 << 20, LANE_BYTES = 64 << 20, BLOCK = 65536, WAKE = 65536 };
enum { SPINS = 20000, YIELD_EVERY = 50 };   /* bounded, so that an idle floor sleeps */

static int mode, sock, file = -1;
static const char *path;
static uint8_t buffer[BUFFER], answer[65536];
static uint64_t instances, total;

static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static uint32_t le32(const uint8_t *p) { return (uint32_t)p[3] << 24 | p[2] << 16 | p[1] << 8 | p[0]; }
static void put_be16(uint8_t *p, uint32_t v) { p[0] = v >> 8; p[1] = v; }
static void put_be32(uint8_t *p, uint32_t v) { put_be16(p, v >> 16); put_be16(p + 2, v); }
static void put_le16(uint8_t *p, uint32_t v) { p[0] = v; p[1] = v >> 8; }

/* ---- CRC-32 and SHA-256 of one instance ---- */

#ifdef WITH_EVP
static uint8_t sums[36];    /* of the last instance */
static EVP_MD_CTX *digest;
static uint32_t crc;
static void sum_begin(void) { if (!digest) digest = EVP_MD_CTX_new(); EVP_DigestInit_ex(digest, EVP_sha256(), NULL); crc = 0; }
static void sum_add(const uint8_t *p, size_t n) { crc = CRC(crc, p, n); EVP_DigestUpdate(digest, p, n); }
static void sum_end(void) { EVP_DigestFinal_ex(digest, sums, NULL); memcpy(sums + 32, &crc, 4); }
#else
static void sum_begin(void) {}
static void sum_add(const uint8_t *p, size_t n) { (void)p; (void)n; }
static void sum_end(void) {}
#endif

static void write_all(const uint8_t *p, size_t n) {
    while (n) {
        ssize_t done = write(file, p, n);
        if (done <= 0) { perror(path); exit(1); }
        p += done; n -= done;
    }
}

/* ---- the lane: one instance at a time, from offset 0 ---- */

static struct shared {
    _Alignas(64) _Atomic uint64_t published;    /* instance number << 40 | bytes of it */
    _Alignas(64) _Atomic uint32_t ended;        /* the last instance that is whole */
    _Alignas(64) _Atomic uint32_t settled;      /* the last instance that is written */
    _Alignas(64) _Atomic uint32_t packer_sleeps, receiver_sleeps;
} *shared;
static uint8_t *lane;

static void futex_wait(_Atomic uint32_t *a, uint32_t v) { syscall(SYS_futex, a, FUTEX_WAIT, v, NULL, NULL, 0); }
static void futex_wake(_Atomic uint32_t *a) { syscall(SYS_futex, a, FUTEX_WAKE, 1, NULL, NULL, 0); }
static void pause_once(int turn) {
    if (turn % YIELD_EVERY == 0) sched_yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}
static void rouse(_Atomic uint32_t *sleeps) {
    if (atomic_load(sleeps)) { atomic_store(sleeps, 0); futex_wake(sleeps); }
}

static void packer(void) {
    const uint64_t mask = ((uint64_t)1 << 40) - 1;
    uint32_t number = 1;
    uint64_t taken = 0;
    sum_begin();
    for (;;) {
        uint32_t ended = atomic_load_explicit(&shared->ended, memory_order_acquire);
        uint64_t word = atomic_load_explicit(&shared->published, memory_order_acquire);
        uint64_t there = word >> 40 == number ? word & mask : 0;
        if (taken < there) {
            uint64_t n = there - taken > BLOCK ? BLOCK : there - taken;
            if (mode == LANE) sum_add(lane + taken, n);
            taken += n;
        } else if (ended == number) {
            write_all(lane, taken);
            if (mode == LANE) { sum_end(); sum_begin(); }
            atomic_store(&shared->settled, number);
            if (atomic_load(&shared->receiver_sleeps)) futex_wake(&shared->settled);
            number++;
            taken = 0;
        } else {
            int turn = 0;
            while (turn < SPINS && atomic_load_explicit(&shared->published, memory_order_relaxed) == word
                   && atomic_load_explicit(&shared->ended, memory_order_relaxed) == ended)
                pause_once(++turn);
            if (turn < SPINS) continue;
            atomic_store(&shared->packer_sleeps, 1);
            if (atomic_load(&shared->published) == word && atomic_load(&shared->ended) == ended)
                futex_wait(&shared->packer_sleeps, 1);
            atomic_store(&shared->packer_sleeps, 0);
        }
    }
}

static void await_packer(uint32_t number) {
    int turn = 0;
    while (turn < SPINS && atomic_load(&shared->settled) != number) pause_once(++turn);
    while (atomic_load(&shared->settled) != number) {
        atomic_store(&shared->receiver_sleeps, 1);
        uint32_t settled = atomic_load(&shared->settled);
        if (settled != number) futex_wait(&shared->settled, settled);
    }
    atomic_store(&shared->receiver_sleeps, 0);
}

/* ---- the wire ---- */

static int some(uint8_t *p, size_t n) {
    const int one = 1;
    ssize_t got = recv(sock, p, n, 0);
    setsockopt(sock, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);  /* Nagle must not cost 40 ms */
    return got > 0 ? (int)got : -1;
}
static int fill(uint8_t *p, size_t n) {
    while (n) { int got = some(p, n); if (got < 0) return -1; p += got; n -= got; }
    return 0;
}
static size_t item(uint8_t *p, int kind, const void *body, size_t n) {
    p[0] = kind; p[1] = 0; put_be16(p + 2, n); memcpy(p + 4, body, n);
    return n + 4;
}

/* Accepts every presentation context in the transfer syntax that it lists first. */
static void accept_association(const uint8_t *rq, size_t length) {
    uint8_t *out = answer + 6;
    memcpy(out, rq, 68); out += 68;
    for (size_t at = 68; at + 4 <= length;) {
        size_t n = rq[at + 2] << 8 | rq[at + 3];
        const uint8_t *body = rq + at + 4;
        if (rq[at] == 0x10) out += item(out, 0x10, body, n);
        if (rq[at] == 0x20) {
            uint8_t ac[4 + 4 + 64] = { body[0], 0, 0, 0 };
            for (size_t sub = 4; sub + 4 <= n;) {
                size_t m = body[sub + 2] << 8 | body[sub + 3];
                if (body[sub] == 0x40 && m <= 64) { out += item(out, 0x21, ac, 4 + item(ac + 4, 0x40, body + sub + 4, m)); break; }
                sub += 4 + m;
            }
        }
        at += 4 + n;
    }
    uint8_t user[32]; const uint8_t pdu[4] = { 0, 2, 0, 0 };    /* 131072 */
    size_t n = item(user, 0x51, pdu, 4);
    n += item(user + n, 0x52, "1.2.3.4", 7);
    out += item(out, 0x50, user, n);
    answer[0] = 2; answer[1] = 0; put_be32(answer + 2, out - answer - 6);
    send(sock, answer, out - answer, MSG_NOSIGNAL);
}

static struct { uint8_t class[64], instance[64], id[2]; size_t class_n, instance_n; } request;

static void read_command(const uint8_t *p, size_t length) {
    for (size_t at = 0; at + 8 <= length;) {
        uint32_t tag = p[at + 2] | p[at + 3] << 8, n = le32(p + at + 4);
        const uint8_t *value = p + at + 8;
        if (tag == 0x0002 && n <= 64) memcpy(request.class, value, request.class_n = n);
        if (tag == 0x1000 && n <= 64) memcpy(request.instance, value, request.instance_n = n);
        if (tag == 0x0110) memcpy(request.id, value, 2);
        at += 8 + n;
    }
}
static uint8_t *element(uint8_t *p, int tag, const void *value, size_t n) {
    memset(p, 0, 8); put_le16(p + 2, tag); put_le16(p + 4, n); memcpy(p + 8, value, n);
    return p + 8 + n;
}
static void respond(int context) {
    uint8_t *start = answer + 12, *out = element(start, 0, "\0\0\0", 4);
    out = element(out, 0x0002, request.class, request.class_n);
    out = element(out, 0x0100, "\x01\x80", 2);
    out = element(out, 0x0120, request.id, 2);
    out = element(out, 0x0800, "\x01\x01", 2);
    out = element(out, 0x0900, "\0", 2);
    out = element(out, 0x1000, request.instance, request.instance_n);
    put_le16(start + 8, out - start - 12);
    answer[0] = 4; answer[1] = 0; put_be32(answer + 2, out - answer - 6);
    put_be32(answer + 6, out - answer - 10); answer[10] = context; answer[11] = 3;
    send(sock, answer, out - answer, MSG_NOSIGNAL);
}

static uint32_t number;         /* of the instance in the lane */
static uint64_t in_lane, unrung;

static int take_fragment(size_t n) {
    total += n;
    if (mode < LANE) {
        if (n > BUFFER || fill(buffer, n)) return -1;
        if (mode >= WRITE) write_all(buffer, n);
        if (mode >= HASH) sum_add(buffer, n);
        return 0;
    }
    if (in_lane + n > LANE_BYTES) { fprintf(stderr, "instance larger than the lane\n"); return -1; }
    while (n) {
        int got = some(lane + in_lane, n);
        if (got < 0) return -1;
        in_lane += got; n -= got; unrung += got;
        atomic_store_explicit(&shared->published, (uint64_t)(number + 1) << 40 | in_lane, memory_order_release);
        if (unrung >= WAKE) { unrung = 0; rouse(&shared->packer_sleeps); }
    }
    return 0;
}
static void end_instance(int context) {
    if (mode >= LANE) {
        atomic_store(&shared->ended, ++number);
        rouse(&shared->packer_sleeps);
        await_packer(number);
        in_lane = unrung = 0;
    } else if (mode == HASH) {
        sum_end();
        sum_begin();
    }
    instances++;
    respond(context);
}

static void serve(void) {
    uint8_t head[6];
    while (!fill(head, 6)) {
        uint32_t left = be32(head + 2);
        if (head[0] != 4) {
            if (left > BUFFER || fill(buffer, left)) return;
            if (head[0] == 1) accept_association(buffer, left);
            if (head[0] == 5) { const uint8_t rp[10] = { 6, 0, 0, 0, 0, 4 }; send(sock, rp, 10, MSG_NOSIGNAL); return; }
            if (head[0] == 7) return;
            continue;
        }
        while (left) {
            if (fill(head, 6)) return;
            uint32_t n = be32(head) - 2;
            int context = head[4], flags = head[5];
            left -= n + 6;
            if (flags & 1) {
                if (n > BUFFER || fill(buffer, n)) return;
                read_command(buffer, n);
            } else {
                if (take_fragment(n)) return;
                if (flags & 2) end_instance(context);
            }
        }
    }
}

int main(int count, char **words) {
    const char *names[] = { "discard", "write", "hash", "lane", "relay" };
    const int one = 1;
    mode = -1;
    for (int i = 0; i < 5 && count == 3; i++) if (!strcmp(words[1], names[i])) mode = i;
    if (mode < 0) { fprintf(stderr, "usage: floor discard|write|hash|lane|relay FILE\n"); return 2; }
#ifndef WITH_EVP
    if (mode == HASH || mode == LANE) { fprintf(stderr, "built without OpenSSL's headers\n"); return 3; }
#endif
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    path = words[2];
    if ((file = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600)) < 0) { perror(path); return 1; }
    if (mode >= LANE) {
        shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        lane = mmap(NULL, LANE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED || lane == MAP_FAILED) { perror("mmap"); return 1; }
        if (!fork()) { prctl(PR_SET_PDEATHSIG, SIGKILL); packer(); }
    }
    if (mode == HASH) sum_begin();
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof here;
    if (bind(listener, (void *)&here, size) || listen(listener, 16) || getsockname(listener, (void *)&here, &size)) { perror("listen"); return 1; }
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    for (;;) {
        if ((sock = accept(listener, NULL, NULL)) < 0) continue;
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (ftruncate(file, 0)) perror(path);
        instances = total = 0;
        serve();
        close(sock);
        printf("%lu %lu\n", (unsigned long)instances, (unsigned long)total);
        fflush(stdout);
    }
}
