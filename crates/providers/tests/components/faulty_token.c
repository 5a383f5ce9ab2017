/* A PKCS#11 library that passes every call on to another one and plays the faults of tokens that are plugged in, shared and
 * worn out: SoftHSM has none of them. For tests only.
 *
 * KEYFOLD_TEST_MODULE names the library behind it, KEYFOLD_TEST_FAULTS a file of letters. Each C_OpenSession takes the first
 * letter if it is a capital one, each C_Decrypt if it is a small one: H hangs for ever, T has no session left, D is a failing
 * device. A letter before a * stays. Each C_OpenSession adds an O, each C_Login an L to the file of that name with `.calls`. */
#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef unsigned long word;

/* CK_FUNCTION_LIST of version 2.40. */
struct functions {
    unsigned char version[2];
    void *entry[68];
};
enum { OPEN_SESSION = 12, LOGIN = 18, DECRYPT = 34 };
enum { DEVICE_ERROR = 0x30, SESSION_COUNT = 0xB1 };

static struct functions ours;
static word (*open_session)(word, word, void *, void *, word *);
static word (*login)(word, word, unsigned char *, word);
static word (*decrypt)(word, unsigned char *, word, unsigned char *, word *);

static void note(char letter)
{
    char path[4096];
    const char *faults = getenv("KEYFOLD_TEST_FAULTS");
    FILE *file;
    if (!faults)
        return;
    snprintf(path, sizeof path, "%s.calls", faults);
    if ((file = fopen(path, "a"))) {
        fputc(letter, file);
        fclose(file);
    }
}

static word fault(int capital)
{
    char text[64] = {0};
    const char *path = getenv("KEYFOLD_TEST_FAULTS");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file)
        return 0;
    if (fread(text, 1, sizeof text - 1, file) == 0)
        text[0] = 0;
    fclose(file);
    if (!text[0] || !!isupper(text[0]) != capital)
        return 0;
    if (text[1] != '*' && (file = fopen(path, "w"))) {
        fputs(text + 1, file);
        fclose(file);
    }
    switch (toupper(text[0])) {
    case 'H':
        for (;;)
            pause();
    case 'T':
        return SESSION_COUNT;
    default:
        return DEVICE_ERROR;
    }
}

static word our_open_session(word slot, word flags, void *application, void *notify, word *session)
{
    note('O');
    word failed = fault(1);
    return failed ? failed : open_session(slot, flags, application, notify, session);
}

static word our_login(word session, word user, unsigned char *pin, word length)
{
    note('L');
    return login(session, user, pin, length);
}

static word our_decrypt(word session, unsigned char *in, word in_length, unsigned char *out, word *out_length)
{
    word failed = fault(0);
    return failed ? failed : decrypt(session, in, in_length, out, out_length);
}

word C_GetFunctionList(struct functions **list)
{
    void *library = dlopen(getenv("KEYFOLD_TEST_MODULE"), RTLD_NOW);
    word (*theirs)(struct functions **) = library ? (word (*)(struct functions **))dlsym(library, "C_GetFunctionList") : NULL;
    struct functions *behind;
    if (!theirs || theirs(&behind))
        return DEVICE_ERROR;
    ours = *behind;
    open_session = ours.entry[OPEN_SESSION];
    login = ours.entry[LOGIN];
    decrypt = ours.entry[DECRYPT];
    ours.entry[OPEN_SESSION] = our_open_session;
    ours.entry[LOGIN] = our_login;
    ours.entry[DECRYPT] = our_decrypt;
    *list = &ours;
    return 0;
}
