/* Calls an HTTP server of this machine over kept connections, and tells how long its answers took.
 *
 *     load --url http://127.0.0.1:PORT/PATH --body FILE --seconds S --concurrency C
 *          [--rate R] [--events N] [--header "Name: value"]… [--grace-s 30] [--ids FILE]
 *
 * Closed loop: C connections, each with one call at a time. With --rate, open loop: calls are due at even
 * distances, R a second, and times count from when a call was due, so that waiting for one of the C
 * connections is counted. All are open before the first call; after S seconds only answers are awaited. In: a
 * request body. Out: JSON on stdout: calls, errors, seconds to the last answer, milliseconds of whole calls and
 * up to the first content of a stream. An answer is good only if it is whole: status 200 and a chat completion,
 * or with --events a stream of at least N events with content, and [DONE]. With --ids, the X-Request-Id of
 * every good answer is added to a file, one a line. One thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
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

#define EVENTS 256
#define MS 1000000LL /* in ns */
#define SETTLE_MS 50 /* for the server to accept the connections */

typedef struct {
    char *bytes;
    size_t size, room;
} Buffer;

typedef struct {
    int64_t *values;
    size_t size, room;
} Times;

typedef enum { HEAD, BODY, REST, CHUNK_SIZE, CHUNK, CHUNK_END, LAST_END } Part; /* what comes next */

typedef struct {
    int fd;
    bool busy, closes, saw_done;
    int status, events;
    char id[80]; /* its X-Request-Id */
    int64_t asked_ns, first_ns;
    size_t sent, left; /* of the request; of the part */
    Part part;
    Buffer in, body; /* `body`: of a stream that is well, its last, unfinished line */
} Connection;

static struct {
    struct sockaddr_in address;
    Buffer request;
    double seconds, rate, grace_s;
    int concurrency, events;
} plan = {.grace_s = 30};
static Connection *connections, **idle;
static Times totals, firsts;
static size_t errors;
static int epoll_fd, idle_count;
static int64_t began_ns, ends_ns;
static char first_error[200];
static FILE *ids;

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 * MS + now.tv_nsec;
}

static void append(Buffer *buffer, const char *bytes, size_t size) {
    if (!size) return;
    if (buffer->size + size > buffer->room) {
        buffer->room = 2 * (buffer->size + size);
        if (!(buffer->bytes = realloc(buffer->bytes, buffer->room))) fail("realloc");
    }
    memcpy(buffer->bytes + buffer->size, bytes, size);
    buffer->size += size;
}

static void drop(Buffer *buffer, size_t size) {
    buffer->size -= size;
    if (buffer->size) memmove(buffer->bytes, buffer->bytes + size, buffer->size);
}

static bool contains(const char *bytes, size_t size, const char *text) {
    return size && memmem(bytes, size, text, strlen(text));
}

static void keep(Times *times, int64_t value) {
    if (times->size == times->room) {
        times->room = 2 * times->room + 1024;
        if (!(times->values = realloc(times->values, times->room * sizeof *times->values))) fail("realloc");
    }
    times->values[times->size++] = value;
}

static void count_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!errors++) vsnprintf(first_error, sizeof first_error, format, arguments);
    va_end(arguments);
}

static void watch(Connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event)) fail("epoll_ctl");
}

static void connect_again(Connection *c) {
    int on = 1;
    if (c->fd >= 0) close(c->fd);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&plan.address, sizeof plan.address)) fail("cannot connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    c->in.size = 0;
}

static void send_more(Connection *c) {
    ssize_t sent = send(c->fd, plan.request.bytes + c->sent, plan.request.size - c->sent, MSG_DONTWAIT);
    bool was_cut = c->sent > 0;
    if (sent > 0) c->sent += (size_t)sent;
    bool is_cut = c->sent < plan.request.size; /* an error shows when reading */
    if (is_cut || was_cut) watch(c, EPOLL_CTL_MOD, EPOLLIN | (is_cut ? EPOLLOUT : 0));
}

static void ask(Connection *c, int64_t due_ns) {
    c->busy = true;
    c->closes = c->saw_done = false;
    c->status = c->events = 0;
    c->id[0] = '\0';
    c->first_ns = 0;
    c->sent = c->left = 0;
    c->part = HEAD;
    c->body.size = 0;
    c->asked_ns = due_ns;
    send_more(c);
}

/* The call is over: a new one at once in a closed loop, when one is due in an open one. */
static void end(Connection *c, int64_t now) {
    c->busy = false;
    if (c->closes) connect_again(c);
    if (!plan.rate && now < ends_ns) ask(c, now);
    else idle[idle_count++] = c;
}

static void finish(Connection *c) {
    int64_t now = now_ns();
    int shown = c->body.size > 120 ? 120 : (int)c->body.size;
    bool is_whole = c->body.size > 1 && contains(c->body.bytes, c->body.size, "\"choices\"") &&
                    memchr(c->body.bytes + c->body.size - 2, '}', 2);
    if (c->status != 200) count_error("HTTP %d: %.*s", c->status, shown, c->body.bytes);
    else if (plan.events && (c->events < plan.events || !c->saw_done))
        count_error("a stream ended after %d of %d events, %s [DONE]: %.*s", c->events, plan.events,
                    c->saw_done ? "with" : "without", shown, c->body.bytes);
    else if (!plan.events && !is_whole) count_error("no chat completion: %.*s", shown, c->body.bytes);
    else {
        keep(&totals, now - c->asked_ns);
        if (plan.events) keep(&firsts, c->first_ns - c->asked_ns);
        if (ids) fprintf(ids, "%s\n", c->id);
    }
    end(c, now);
}

/* Whether a line of a stream has a token: "content": "x…". */
static bool has_content(const char *line, size_t size) {
    static const char key[] = "\"content\":";
    const char *value = memmem(line, size, key, strlen(key)), *line_end = line + size;
    if (!value) return false;
    value += strlen(key);
    if (value < line_end && *value == ' ') value++;
    return line_end - value > 1 && value[0] == '"' && value[1] != '"';
}

static void take_body(Connection *c, const char *bytes, size_t size) {
    append(&c->body, bytes, size);
    if (!plan.events || c->status != 200) return;
    char *line = c->body.bytes, *body_end = line + c->body.size, *newline;
    for (; (newline = memchr(line, '\n', (size_t)(body_end - line))); line = newline + 1) {
        size_t length = (size_t)(newline - line);
        if (has_content(line, length)) {
            if (!c->events++) c->first_ns = now_ns();
        } else if (length >= 12 && !memcmp(line, "data: [DONE]", 12)) c->saw_done = true;
    }
    drop(&c->body, (size_t)(line - c->body.bytes));
}

/* Takes in the head of an answer, which ends with an empty line. */
static void take_head(Connection *c, char *head, size_t size) {
    head[size - 1] = '\0';
    c->status = atoi(head + strcspn(head, " "));
    c->part = REST;
    c->closes = true; /* unless we are told where the answer ends */
    bool wants_close = false;
    for (char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) c->part = BODY, c->left = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding: chunked", 26)) c->part = CHUNK_SIZE;
        if (!strncasecmp(line, "connection: close", 17)) wants_close = true;
        if (!strncasecmp(line, "x-request-id:", 13)) sscanf(line + 13, " %79[^\r]", c->id);
    }
    if (c->part != REST) c->closes = wants_close;
}

/* Takes in what was read; true once the answer is over. */
static bool take(Connection *c) {
    size_t at = 0;
    bool is_over = false;
    while (!is_over) {
        char *bytes = c->in.bytes + at, *line_end;
        size_t there = c->in.size - at, size = there < c->left ? there : c->left;
        if (c->part == BODY && !c->left) is_over = true;
        else if (!there) break;
        else if (c->part == HEAD) {
            if (!(line_end = memmem(bytes, there, "\r\n\r\n", 4))) break;
            at += (size_t)(line_end - bytes) + 4;
            take_head(c, bytes, (size_t)(line_end - bytes) + 4);
        } else if (c->part == CHUNK_SIZE) {
            if (!(line_end = memmem(bytes, there, "\r\n", 2))) break;
            at += (size_t)(line_end - bytes) + 2;
            c->left = strtoul(bytes, NULL, 16);
            c->part = c->left ? CHUNK : LAST_END;
        } else if (c->part == CHUNK_END || c->part == LAST_END) {
            if (there < 2) break;
            at += 2;
            is_over = c->part == LAST_END;
            c->part = CHUNK_SIZE;
        } else {
            size = c->part == REST ? there : size;
            take_body(c, bytes, size);
            at += size;
            if (c->part != REST) c->left -= size;
            if (c->part == CHUNK && !c->left) c->part = CHUNK_END;
        }
    }
    drop(&c->in, at);
    return is_over;
}

static void on_event(Connection *c, uint32_t events) {
    static char bytes[1 << 16];
    if (events & EPOLLOUT) send_more(c);
    if (!(events & ~(uint32_t)EPOLLOUT)) return;
    ssize_t size = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) return;
    if (size > 0) {
        append(&c->in, bytes, (size_t)size);
        if (c->busy && take(c)) finish(c);
    } else if (!c->busy) connect_again(c); /* it was kept for too long */
    else if (size == 0 && c->part == REST) finish(c);
    else {
        count_error("the connection was closed %s", c->status ? "within an answer" : "before an answer");
        c->closes = true;
        end(c, now_ns());
    }
}

static void wait_for_events(int64_t until_ns) {
    struct epoll_event events[EVENTS];
    struct pollfd polled = {.fd = epoll_fd, .events = POLLIN}; /* epoll_wait counts in milliseconds only */
    int64_t left_ns = until_ns - now_ns();
    struct timespec left = {left_ns / (1000 * MS), left_ns % (1000 * MS)};
    if (left_ns > 0) ppoll(&polled, 1, &left, NULL);
    int count = epoll_wait(epoll_fd, events, EVENTS, 0);
    for (int i = 0; i < count; i++) on_event(events[i].data.ptr, events[i].events);
}

static void run_closed(void) {
    int64_t give_up_ns = ends_ns + (int64_t)(plan.grace_s * 1e9);
    for (int i = 0; i < plan.concurrency; i++) ask(&connections[i], now_ns());
    while (idle_count < plan.concurrency && now_ns() < give_up_ns) wait_for_events(give_up_ns);
}

static void run_open(void) {
    int64_t count = (int64_t)(plan.seconds * plan.rate), next = 0, due_ns = began_ns;
    int64_t give_up_ns = ends_ns + (int64_t)(plan.grace_s * 1e9);
    for (int i = 0; i < plan.concurrency; i++) idle[idle_count++] = &connections[i];
    while ((next < count || idle_count < plan.concurrency) && now_ns() < give_up_ns) {
        while (next < count && idle_count && due_ns <= now_ns()) {
            ask(idle[--idle_count], due_ns);
            due_ns = began_ns + (int64_t)((double)++next / plan.rate * 1e9);
        }
        wait_for_events(next < count && idle_count ? due_ns : give_up_ns);
    }
    for (; next < count; next++) count_error("a call that was due found no free connection");
}

static int by_value(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void print_times(const char *name, Times *times) {
    static const double shares[] = {0.5, 0.9, 0.99, 1};
    static const char *names[] = {"p50", "p90", "p99", "max"};
    printf(", \"%s\": ", name);
    if (!times->size) {
        printf("null");
        return;
    }
    qsort(times->values, times->size, sizeof *times->values, by_value);
    for (int i = 0; i < 4; i++) {
        size_t rank = (size_t)(shares[i] * (double)times->size + 0.999999);
        printf("%s\"%s\": %.4f", i ? ", " : "{", names[i], (double)times->values[rank ? rank - 1 : 0] / MS);
    }
    printf("}");
}

static void report(void) {
    for (char *at = first_error; *at; at++)
        if (*at == '"' || *at == '\\' || *at < ' ' || *at > '~') *at = ' ';
    printf("{\"calls\": %zu, \"errors\": %zu, \"first_error\": ", totals.size, errors);
    printf(errors ? "\"%s\"" : "null", first_error);
    printf(", \"took_s\": %.4f", (double)(now_ns() - began_ns) / 1e9);
    print_times("total_ms", &totals);
    print_times("first_ms", &firsts);
    printf("}\n");
}

static void add_file(Buffer *buffer, const char *path) {
    char bytes[1 << 16];
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    for (size_t size; (size = fread(bytes, 1, sizeof bytes, file));) append(buffer, bytes, size);
    fclose(file);
}

static void add_line(Buffer *buffer, const char *line) {
    append(buffer, line, strlen(line));
    append(buffer, "\r\n", 2);
}

static void usage(void) {
    fprintf(stderr,
            "usage: load --url http://127.0.0.1:PORT/PATH --body FILE --seconds S --concurrency C\n"
            "            [--rate R] [--events N] [--header \"Name: value\"]... [--grace-s 30] [--ids FILE]\n");
    exit(2);
}

static void read_options(int argc, char **argv) {
    Buffer headers = {0}, body = {0};
    char path[1024] = "", head[2048];
    int port = 0;
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) usage();
        else if (!strcmp(name, "--url")) sscanf(value, "http://127.0.0.1:%d%1023s", &port, path);
        else if (!strcmp(name, "--body")) add_file(&body, value);
        else if (!strcmp(name, "--seconds")) plan.seconds = atof(value);
        else if (!strcmp(name, "--concurrency")) plan.concurrency = atoi(value);
        else if (!strcmp(name, "--rate")) plan.rate = atof(value);
        else if (!strcmp(name, "--events")) plan.events = atoi(value);
        else if (!strcmp(name, "--grace-s")) plan.grace_s = atof(value);
        else if (!strcmp(name, "--ids")) {
            if (!(ids = fopen(value, "a"))) fail(value);
        } else if (!strcmp(name, "--header")) add_line(&headers, value);
        else usage();
    }
    if (!port || !*path || !body.size || plan.seconds <= 0 || plan.concurrency < 1) usage();
    plan.address = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n", path, port, body.size);
    append(&plan.request, head, strlen(head));
    append(&plan.request, headers.bytes, headers.size);
    add_line(&plan.request, "");
    append(&plan.request, body.bytes, body.size);
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1000L); /* ns */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)plan.concurrency, sizeof *connections);
    idle = calloc((size_t)plan.concurrency, sizeof *idle);
    if (!connections || !idle) fail("calloc");
    for (int i = 0; i < plan.concurrency; i++) {
        connections[i].fd = -1;
        connect_again(&connections[i]);
    }
    usleep(SETTLE_MS * 1000);
    began_ns = now_ns();
    ends_ns = began_ns + (int64_t)(plan.seconds * 1e9);
    if (plan.rate) run_open();
    else run_closed();
    for (int i = 0; i < plan.concurrency; i++)
        if (connections[i].busy) count_error("an answer was not there %g s after the end", plan.grace_s);
    if (ids && fclose(ids)) fail("cannot write the ids");
    report();
}
