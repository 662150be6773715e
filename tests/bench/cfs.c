/* The least that a file system in C can be asked for: containers/c/state, read by direct I/O, names and attributes cached. What open, read
 * and close take here is the limit that the tree is measured against. Like the tree it is asked at each close (FLUSH), as a file
 * system is that validates what was written; without a handler libfuse would answer that once and for all.
 *
 * `cfs -m DIRECTORY` serves with the loop of many threads that a C program gets unless it asks for less, `cfs DIRECTORY` with one. */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fuse_lowlevel.h>
#include <string.h>

static const char content[] = "created\n";
static const char *const names[] = {"", "containers", "c", "state"}; /* inode i+1 holds names[i+1] */

static void attributes(fuse_ino_t number, struct stat *found) {
    memset(found, 0, sizeof *found);
    found->st_ino = number;
    found->st_mode = number == 4 ? S_IFREG | 0644 : S_IFDIR | 0755;
    found->st_nlink = 1;
    found->st_size = number == 4 ? sizeof content - 1 : 0;
}

static void look_up(fuse_req_t request, fuse_ino_t parent, const char *name) {
    struct fuse_entry_param entry = {0};
    if (parent > 3 || strcmp(name, names[parent]) != 0) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    entry.ino = parent + 1;
    entry.attr_timeout = entry.entry_timeout = 86400;
    attributes(entry.ino, &entry.attr);
    fuse_reply_entry(request, &entry);
}

static void get_attributes(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file) {
    struct stat found;
    (void)file;
    attributes(number, &found);
    fuse_reply_attr(request, &found, 86400);
}

static void open_file(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file) {
    if (number != 4) {
        fuse_reply_err(request, EISDIR);
        return;
    }
    file->direct_io = 1;
    fuse_reply_open(request, file);
}

static void read_file(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *file) {
    size_t length = sizeof content - 1;
    (void)number, (void)file;
    if ((size_t)offset >= length)
        fuse_reply_buf(request, NULL, 0);
    else
        fuse_reply_buf(request, content + offset, size < length - offset ? size : length - offset);
}

static void flush_file(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file) {
    (void)number, (void)file;
    fuse_reply_err(request, 0);
}

static void release_file(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file) {
    (void)number, (void)file;
    fuse_reply_err(request, 0);
}

int main(int argc, char *argv[]) {
    static const struct fuse_lowlevel_ops operations = {
        .lookup = look_up, .getattr = get_attributes, .open = open_file, .read = read_file, .flush = flush_file, .release = release_file};
    struct fuse_args arguments = FUSE_ARGS_INIT(1, argv);
    struct fuse_loop_config configuration = {.clone_fd = 0, .max_idle_threads = 10};
    struct fuse_session *session;
    int threads = argc > 1 && strcmp(argv[1], "-m") == 0, result = 1;
    if (argc != 2 + threads || (session = fuse_session_new(&arguments, &operations, sizeof operations, NULL)) == NULL)
        return 1;
    if (fuse_session_mount(session, argv[argc - 1]) == 0) {
        fuse_set_signal_handlers(session);
        result = threads ? fuse_session_loop_mt(session, &configuration) : fuse_session_loop(session);
        fuse_remove_signal_handlers(session);
        fuse_session_unmount(session);
    }
    fuse_session_destroy(session);
    return result < 0; /* above 0 is the signal that ended it */
}
