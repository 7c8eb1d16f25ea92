/* ptrace(2) for a User-Mode Linux that knows less registers than the processor has.
 *
 * Linux 6.1 keeps 2696 bytes of a process's extended state, which is all up to AVX-512. A host whose
 * processor has more (AMX: 11 008 bytes) gives the first bytes of a state, but takes back whole ones
 * only: the first process dies of EFAULT. What the kernel does not know is unused, since it lets no
 * process ask for it.
 *
 * It is loaded into the kernel's process by LD_PRELOAD.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static long (*host_ptrace)(int, int, void *, void *);

static long set_whole_state(int pid, void *kind, const struct iovec *known)
{
	static char state[65536]; /* stacks are small here, and there is one thread */
	struct iovec whole = {state, sizeof state};
	long result = host_ptrace(PTRACE_GETREGSET, pid, kind, &whole);

	if (result)
		return result;
	memcpy(state, known->iov_base, known->iov_len < whole.iov_len ? known->iov_len : whole.iov_len);
	return host_ptrace(PTRACE_SETREGSET, pid, kind, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	int pid;
	void *address, *data;

	va_start(arguments, request);
	pid = va_arg(arguments, int);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if (!host_ptrace)
		host_ptrace = dlsym(RTLD_NEXT, "ptrace");
	if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
		return set_whole_state(pid, address, data);
	return host_ptrace(request, pid, address, data);
}
