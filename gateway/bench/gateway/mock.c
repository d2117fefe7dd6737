/* An upstream that costs next to nothing: OpenAI's chat completions, always the same answer, on 127.0.0.1.
 *
 *     mock --port N [--chunks 64] [--gap-ms 0] [--first-ms 0]
 *
 * In: HTTP/1.1 requests on any path, kept alive, pipelined or not. Out: a chat completion of about 560 bytes;
 * for a body with "stream": true, server-sent events, each an HTTP chunk and a write of its own: `chunks` of
 * them with content, one with usage where "include_usage": true asks for it, [DONE]. The answer begins
 * `first-ms` after the request, and its chunks are `gap-ms` apart; what later requests get is changed by
 * `POST /settings?chunks=16&gap-ms=5&first-ms=0`. One thread. Knows no keys, and of errors only a request
 * that it cannot read (400).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 65536
#define MAX_REQUEST (64u << 20)
#define EVENTS 256

typedef enum { PARTIAL, WHOLE, MALFORMED } Found;

typedef struct {
    char *bytes;
    size_t size, room;
} Buffer;

typedef struct {
    int fd;
    Buffer in, out;
    int64_t due_ns;     /* when `step` is to be called again; 0: not before the socket says so */
    int piece;          /* of the answer, to be sent next */
    int pieces, gap_ms; /* of this answer: settings may change under it */
    bool busy, is_stream, wants_usage, closes;
} Connection;

static const char ANSWER[] =
    "{\"id\":\"chatcmpl-CmZ3kq8RvTn1bY0sWdXeUf7J\",\"object\":\"chat.completion\",\"created\":1763700000,"
    "\"model\":\"mock-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
    "\"A gateway stands between many callers and many models. It knows who calls, chooses where each call "
    "goes, and keeps a record.\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,"
    "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":61,\"completion_tokens\":26,"
    "\"total_tokens\":87,\"prompt_tokens_details\":{\"cached_tokens\":0},"
    "\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"service_tier\":\"default\"}";
static const char EVENT_BEGIN[] =
    "data: {\"id\":\"chatcmpl-CmZ3kq8RvTn1bY0sWdXeUf7J\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763700000,\"model\":\"mock-model\",";
static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                                  "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char DONE[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static struct {
    int chunks, gap_ms, first_ms;
} settings = {64, 0, 0};
static Connection *connections[MAX_FDS];
static int epoll_fd, highest_fd;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void append(Buffer *buffer, const char *bytes, size_t size) {
    if (!size) return;
    if (buffer->size + size > buffer->room) {
        buffer->room = 2 * (buffer->size + size);
        if (!(buffer->bytes = realloc(buffer->bytes, buffer->room))) fail("mock: realloc");
    }
    memcpy(buffer->bytes + buffer->size, bytes, size);
    buffer->size += size;
}

static void drop(Buffer *buffer, size_t size) {
    buffer->size -= size;
    memmove(buffer->bytes, buffer->bytes + size, buffer->size);
}

static void watch(Connection *c, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (c->out.size ? EPOLLOUT : 0), .data.fd = c->fd};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event)) fail("mock: epoll_ctl");
}

static void forget(Connection *c) {
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->in.bytes);
    free(c->out.bytes);
    free(c);
}

/* Writes at once; what the socket does not take is kept until it does. A lost peer shows when reading. */
static void put(Connection *c, const char *bytes, size_t size) {
    bool was_empty = !c->out.size;
    ssize_t written = was_empty ? write(c->fd, bytes, size) : 0;
    if (written < 0 && errno != EAGAIN) return;
    if (written > 0) bytes += written, size -= (size_t)written;
    append(&c->out, bytes, size);
    if (was_empty && size) watch(c, EPOLL_CTL_MOD);
}

static void put_whole(Connection *c, const char *status, const char *body) {
    char text[2048];
    static const char format[] =
        "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s";
    int length = snprintf(text, sizeof text, format, status, strlen(body), body);
    put(c, text, (size_t)length);
}

static void put_event(Connection *c, const char *rest) {
    char text[1024];
    int length = (int)strlen(EVENT_BEGIN) + (int)strlen(rest) + 2;
    int written = snprintf(text, sizeof text, "%x\r\n%s%s\n\n\r\n", length, EVENT_BEGIN, rest);
    put(c, text, (size_t)written);
}

static void put_content(Connection *c) {
    char rest[256];
    bool is_first = !c->piece, is_last = c->piece + 1 == c->pieces;
    snprintf(rest, sizeof rest,
             "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\" word%d\"},\"finish_reason\":%s}]%s}",
             is_first ? "\"role\":\"assistant\"," : "", c->piece, is_last ? "\"stop\"" : "null",
             c->wants_usage ? ",\"usage\":null" : "");
    if (is_first) put(c, STREAM_HEAD, strlen(STREAM_HEAD));
    put_event(c, rest);
}

static void put_end(Connection *c) {
    char rest[256];
    snprintf(rest, sizeof rest,
             "\"choices\":[],\"usage\":{\"prompt_tokens\":61,\"completion_tokens\":%d,\"total_tokens\":%d}}",
             c->pieces, 61 + c->pieces);
    if (c->wants_usage) put_event(c, rest);
    put(c, DONE, strlen(DONE));
}

/* Sends what is due of the answer; false once it is sent whole. */
static bool step(Connection *c) {
    if (c->due_ns && now_ns() < c->due_ns) return true;
    if (!c->is_stream) {
        put_whole(c, "200 OK", ANSWER);
        return c->busy = false;
    }
    while (c->piece < c->pieces) {
        if (c->out.size && !c->gap_ms) return c->due_ns = 0, true; /* goes on when the socket takes more */
        put_content(c);
        if (++c->piece < c->pieces && c->gap_ms) return c->due_ns += c->gap_ms * 1000000LL, true;
    }
    put_end(c);
    return c->busy = false;
}

/* The value of a header, or NULL; `name` is in lower case and has its colon. */
static const char *header(const char *head, const char *name) {
    size_t size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, size)) return line + 2 + size + strspn(line + 2 + size, " \t");
    return NULL;
}

/* Whether a chunked body is all there, its size, the bytes it takes; `join` puts it together in its place. */
static Found find_chunked(char *body, size_t there, size_t *size, size_t *taken, bool join) {
    size_t at = 0;
    for (*size = 0;;) {
        char *line_end = memmem(body + at, there - at, "\r\n", 2), *digits_end;
        if (!line_end) return PARTIAL;
        size_t chunk = strtoul(body + at, &digits_end, 16);
        if (digits_end == body + at || chunk > MAX_REQUEST) return MALFORMED;
        at = (size_t)(line_end - body) + 2;
        if (there < at + chunk + 2) return PARTIAL;
        if (join) memmove(body + *size, body + at, chunk);
        *size += chunk;
        at += chunk + 2;
        if (!chunk) return *taken = at, WHOLE; /* no trailers */
    }
}

static Found find_body(const char *head, char *body, size_t there, size_t *size, size_t *taken) {
    const char *length = header(head, "content-length:"), *coding = header(head, "transfer-encoding:");
    if (coding && !strncasecmp(coding, "chunked", 7)) {
        Found found = find_chunked(body, there, size, taken, false);
        return found == WHOLE ? find_chunked(body, there, size, taken, true) : found;
    }
    *size = *taken = length ? strtoul(length, NULL, 10) : 0;
    return *size > MAX_REQUEST ? MALFORMED : there < *size ? PARTIAL : WHOLE;
}

/* Whether `"key": true` stands in the JSON; inside a string the quotes would be escaped. */
static bool is_true(const char *body, size_t size, const char *key) {
    const char *at = body, *end = body + size;
    while ((at = memmem(at, (size_t)(end - at), key, strlen(key)))) {
        at += strlen(key);
        const char *value = at;
        while (value < end && *value && strchr(": \t\r\n", *value)) value++;
        if (end - value >= 4 && !memcmp(value, "true", 4)) return true;
    }
    return false;
}

static void change_settings(const char *target) {
    const struct {
        const char *name;
        int *value;
    } known[] = {
        {"chunks=", &settings.chunks}, {"gap-ms=", &settings.gap_ms}, {"first-ms=", &settings.first_ms}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *found = strstr(target, known[i].name);
        if (found) *known[i].value = atoi(found + strlen(known[i].name));
    }
    if (settings.chunks < 1) settings.chunks = 1;
}

/* Begins to answer a request. */
static void begin(Connection *c, const char *head, const char *body, size_t size) {
    const char *connection = header(head, "connection:");
    c->closes = connection && !strncasecmp(connection, "close", 5);
    if (!strncmp(head, "POST /settings?", 15)) {
        change_settings(head);
        put_whole(c, "200 OK", "{}");
        return;
    }
    c->busy = true;
    c->piece = 0, c->pieces = settings.chunks, c->gap_ms = settings.gap_ms;
    c->is_stream = is_true(body, size, "\"stream\"");
    c->wants_usage = c->is_stream && is_true(body, size, "\"include_usage\"");
    c->due_ns = settings.first_ms || c->gap_ms ? now_ns() + settings.first_ms * 1000000LL : 0;
}

/* Takes one request out of what was read; false while there is none. */
static bool take(Connection *c) {
    size_t size, taken;
    char *head_end = c->in.size ? memmem(c->in.bytes, c->in.size, "\r\n\r\n", 4) : NULL, *body = NULL;
    Found found = c->in.size > MAX_REQUEST ? MALFORMED : PARTIAL;
    if (head_end) {
        head_end[3] = '\0'; /* the head is a string for now */
        body = head_end + 4;
        found = find_body(c->in.bytes, body, c->in.size - (size_t)(body - c->in.bytes), &size, &taken);
        if (found == WHOLE) begin(c, c->in.bytes, body, size);
        head_end[3] = '\n';
    }
    if (found == WHOLE) drop(&c->in, (size_t)(body - c->in.bytes) + taken);
    if (found == MALFORMED) {
        put_whole(c, "400 Bad Request", "{\"error\":{\"message\":\"the mock cannot read this request\"}}");
        c->closes = true;
    }
    return found != PARTIAL;
}

/* As far as it goes without waiting; false once the connection is done with. */
static bool advance(Connection *c) {
    for (;;) {
        if (c->busy && step(c)) return true;
        if (c->closes) return c->out.size > 0;
        if (c->out.size || !take(c)) return true;
    }
}

/* False when the peer has left. */
static bool on_event(Connection *c, uint32_t events) {
    static char bytes[1 << 16];
    if (events & EPOLLOUT) {
        ssize_t written = write(c->fd, c->out.bytes, c->out.size);
        if (written < 0 && errno != EAGAIN) return false;
        if (written > 0) drop(&c->out, (size_t)written);
        watch(c, EPOLL_CTL_MOD);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t size = read(c->fd, bytes, sizeof bytes);
        if (size == 0 || (size < 0 && errno != EAGAIN)) return false;
        if (size > 0) append(&c->in, bytes, (size_t)size);
    }
    return advance(c);
}

static void accept_all(int listening) {
    int fd, on = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        Connection *c = fd < MAX_FDS ? calloc(1, sizeof *c) : NULL;
        if (!c) fail("mock: too many connections");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        c->fd = fd;
        connections[fd] = c;
        highest_fd = fd > highest_fd ? fd : highest_fd;
        watch(c, EPOLL_CTL_ADD);
    }
}

static int listen_at(int port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) fail("mock: cannot listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

/* When the first paced answer goes on; INT64_MAX: none waits. */
static int64_t next_due_ns(void) {
    int64_t first = INT64_MAX;
    for (int fd = 0; fd <= highest_fd; fd++) {
        Connection *c = connections[fd];
        if (c && c->busy && c->due_ns && c->due_ns < first) first = c->due_ns;
    }
    return first;
}

static void serve(int listening) {
    struct epoll_event events[EVENTS], accepting = {.events = EPOLLIN, .data.fd = listening};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listening, &accepting)) fail("mock: epoll_ctl");
    for (;;) {
        int64_t due_ns = next_due_ns(), left_ns = due_ns - now_ns();
        struct timespec left = {left_ns / 1000000000, left_ns % 1000000000};
        struct pollfd polled = {.fd = epoll_fd, .events = POLLIN}; /* epoll_wait counts in milliseconds */
        if (due_ns != INT64_MAX && left_ns > 0) ppoll(&polled, 1, &left, NULL);
        int count = epoll_wait(epoll_fd, events, EVENTS, due_ns == INT64_MAX ? -1 : 0);
        for (int i = 0; i < count; i++) {
            Connection *c = connections[events[i].data.fd];
            if (events[i].data.fd == listening) accept_all(listening);
            else if (c && !on_event(c, events[i].events)) forget(c);
        }
        for (int fd = 0; due_ns != INT64_MAX && fd <= highest_fd; fd++) {
            Connection *c = connections[fd];
            if (c && c->busy && c->due_ns && c->due_ns <= now_ns() && !advance(c)) forget(c);
        }
    }
}

int main(int argc, char **argv) {
    int port = -1;
    const struct {
        const char *name;
        int *value;
    } options[] = {{"--port", &port},
                   {"--chunks", &settings.chunks},
                   {"--gap-ms", &settings.gap_ms},
                   {"--first-ms", &settings.first_ms}};
    for (int i = 1; i + 1 < argc; i += 2)
        for (size_t j = 0; j < sizeof options / sizeof *options; j++)
            if (!strcmp(argv[i], options[j].name)) *options[j].value = atoi(argv[i + 1]);
    if (port < 0 || settings.chunks < 1 || argc % 2 == 0) {
        fprintf(stderr, "usage: mock --port N [--chunks 64] [--gap-ms 0] [--first-ms 0]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1000L); /* ns */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    serve(listen_at(port));
}
