/* A worker of benches: static, without a C library. With its first instructions it opens argv[1], where there is one (a
   FIFO somebody reads), and writes one byte; then it waits for ever. */
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
__attribute__((used)) void begin(long *stack) {
    if (stack[0] > 1) {
        long fifo = call(2, stack[2], 1, 0); /* open, O_WRONLY */
        call(1, fifo, (long)"!", 1);         /* write */
        call(3, fifo, 0, 0);                 /* close */
    }
    for (;;) call(34, 0, 0, 0); /* pause */
}
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
