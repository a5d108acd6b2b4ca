#include "copy_face.h"

#include <stdlib.h>
#include <string.h>

#include "copy.h"

/* Letting go of the interpreter costs about as much as copying so many bytes. */
#define RELEASE_NBYTES ((size_t)256 << 10)

#define CHOICES_MAX 64

static int to_address(PyObject *object, void *result) {
    void *address = PyLong_AsVoidPtr(object);
    if (!address && PyErr_Occurred()) return 0;
    *(void **)result = address;
    return 1;
}

static int to_nbytes(PyObject *object, void *result) {
    size_t nbytes = PyLong_AsSize_t(object);
    if (nbytes == (size_t)-1 && PyErr_Occurred()) return 0;
    *(size_t *)result = nbytes;
    return 1;
}

/* ("avx2-nt", 2); the kernel must be available here. */
static int to_choice(PyObject *object, void *result) {
    const char *name;
    unsigned char threads;
    if (!PyTuple_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "a choice is a tuple (kernel, threads)");
        return 0;
    }
    if (!PyArg_ParseTuple(object, "sb:choice", &name, &threads)) return 0;
    for (unsigned kernel = 0; kernel < SHMT_COPY_KERNELS; kernel++) {
        if (strcmp(name, shmt_copy_kernel_name(kernel)) != 0 || !shmt_copy_kernel_available(kernel)) continue;
        *(shmt_copy_choice *)result = (shmt_copy_choice){(uint8_t)kernel, threads ? threads : 1};
        return 1;
    }
    PyErr_Format(PyExc_ValueError, "this CPU has no copy kernel %R", PyTuple_GetItem(object, 0));
    return 0;
}

static PyObject *from_choice(shmt_copy_choice choice) {
    return Py_BuildValue("(si)", shmt_copy_kernel_name(choice.kernel), choice.threads ? choice.threads : 1);
}

static PyObject *from_choices(const shmt_copy_choice *choices, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple && i < count; i++) {
        PyObject *choice = from_choice(choices[i]);
        if (!choice || PyTuple_SetItem(tuple, i, choice) != 0) Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *from_plan(const shmt_copy_plan *plan) {
    PyObject *warm = from_choices(plan->warm, SHMT_COPY_CLASSES);
    PyObject *cold = from_choices(plan->cold, SHMT_COPY_CLASSES);
    PyObject *result =
        warm && cold ? Py_BuildValue("(KOO)", (unsigned long long)plan->warm_limit_nbytes, warm, cold) : NULL;
    Py_XDECREF(warm);
    Py_XDECREF(cold);
    return result;
}

static int to_choices(PyObject *tuple, shmt_copy_choice choices[SHMT_COPY_CLASSES]) {
    if (PyTuple_Size(tuple) != SHMT_COPY_CLASSES) {
        PyErr_Format(PyExc_ValueError, "a plan has %d choices for warm and for cold rings", SHMT_COPY_CLASSES);
        return 0;
    }
    for (Py_ssize_t i = 0; i < SHMT_COPY_CLASSES; i++)
        if (!to_choice(PyTuple_GetItem(tuple, i), &choices[i])) return 0;
    return 1;
}

static void copy_released(shmt_copy_choice choice, void *dst, const void *src, size_t nbytes) {
    if (nbytes < RELEASE_NBYTES) {
        shmt_copy_with(choice, dst, src, nbytes);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    shmt_copy_with(choice, dst, src, nbytes);
    Py_END_ALLOW_THREADS
}

void shmt_copy_released(void *dst, const void *src, size_t nbytes, uint64_t footprint_nbytes) {
    copy_released(shmt_copy_choose(nbytes, footprint_nbytes), dst, src, nbytes);
}

static PyObject *face_copy(PyObject *module, PyObject *arguments) {
    void *dst, *src;
    size_t nbytes, footprint_nbytes;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O&O&O&O&:copy", to_address, &dst, to_address, &src, to_nbytes, &nbytes,
                          to_nbytes, &footprint_nbytes))
        return NULL;
    shmt_copy_released(dst, src, nbytes, footprint_nbytes);
    Py_RETURN_NONE;
}

static PyObject *face_copy_with(PyObject *module, PyObject *arguments) {
    void *dst, *src;
    size_t nbytes;
    shmt_copy_choice choice;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O&O&O&O&:copy_with", to_choice, &choice, to_address, &dst, to_address, &src,
                          to_nbytes, &nbytes))
        return NULL;
    copy_released(choice, dst, src, nbytes);
    Py_RETURN_NONE;
}

static PyObject *kernel_names(void) {
    const char *names[SHMT_COPY_KERNELS];
    Py_ssize_t count = 0;
    for (unsigned kernel = 0; kernel < SHMT_COPY_KERNELS; kernel++)
        if (shmt_copy_kernel_available(kernel)) names[count++] = shmt_copy_kernel_name(kernel);
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple && i < count; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (!name || PyTuple_SetItem(tuple, i, name) != 0) Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *class_nbytes(void) {
    PyObject *tuple = PyTuple_New(SHMT_COPY_CLASSES);
    for (Py_ssize_t i = 0; tuple && i < SHMT_COPY_CLASSES; i++) {
        PyObject *nbytes = PyLong_FromSize_t(SHMT_COPY_PLANNED_NBYTES << 2 * i);
        if (!nbytes || PyTuple_SetItem(tuple, i, nbytes) != 0) Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *face_copy_facts(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *names = kernel_names(), *classes = class_nbytes();
    unsigned long long cache_nbytes = shmt_copy_cache_nbytes();
    PyObject *facts = names && classes ? Py_BuildValue("(OIIKO)", names, shmt_copy_threads_limit(),
                                                       shmt_copy_threads_planned(), cache_nbytes, classes)
                                       : NULL;
    Py_XDECREF(names);
    Py_XDECREF(classes);
    return facts;
}

static PyObject *face_copy_choose(PyObject *module, PyObject *arguments) {
    size_t nbytes, footprint_nbytes;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O&O&:copy_choose", to_nbytes, &nbytes, to_nbytes, &footprint_nbytes)) return NULL;
    return from_choice(shmt_copy_choose(nbytes, footprint_nbytes));
}

static PyObject *face_copy_plan(PyObject *module, PyObject *unused) {
    shmt_copy_plan plan;
    (void)module, (void)unused;
    if (!shmt_copy_get_plan(&plan)) Py_RETURN_NONE;
    return from_plan(&plan);
}

static PyObject *face_copy_set_plan(PyObject *module, PyObject *object) {
    unsigned long long warm_limit_nbytes;
    PyObject *warm, *cold;
    shmt_copy_plan plan;
    (void)module;
    if (object == Py_None) {
        shmt_copy_set_plan(NULL);
        Py_RETURN_NONE;
    }
    if (!PyTuple_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "a plan is None or a tuple (warm_limit_nbytes, warm, cold)");
        return NULL;
    }
    if (!PyArg_ParseTuple(object, "KO!O!:copy_set_plan", &warm_limit_nbytes, &PyTuple_Type, &warm, &PyTuple_Type,
                          &cold))
        return NULL;
    plan.warm_limit_nbytes = warm_limit_nbytes;
    if (!to_choices(warm, plan.warm) || !to_choices(cold, plan.cold)) return NULL;
    shmt_copy_set_plan(&plan);
    Py_RETURN_NONE;
}

static PyObject *face_copy_calibrate(PyObject *module, PyObject *unused) {
    shmt_copy_plan plan;
    bool measured;
    (void)module, (void)unused;
    Py_BEGIN_ALLOW_THREADS
    measured = shmt_copy_calibrate(&plan);
    Py_END_ALLOW_THREADS
    return measured ? from_plan(&plan) : PyErr_NoMemory();
}

/* One tuple of samples, in ns, for each choice. */
static PyObject *from_samples(const double *ns, Py_ssize_t count, unsigned repeats) {
    PyObject *result = PyTuple_New(count);
    for (Py_ssize_t i = 0; result && i < count; i++) {
        PyObject *samples = PyTuple_New(repeats);
        for (unsigned repeat = 0; samples && repeat < repeats; repeat++) {
            PyObject *sample = PyFloat_FromDouble(ns[repeat * (size_t)count + (size_t)i]);
            if (!sample || PyTuple_SetItem(samples, repeat, sample) != 0) Py_CLEAR(samples);
        }
        if (!samples || PyTuple_SetItem(result, i, samples) != 0) Py_CLEAR(result);
    }
    return result;
}

static PyObject *face_copy_time(PyObject *module, PyObject *arguments) {
    PyObject *sequence;
    shmt_copy_trial trial;
    shmt_copy_choice choices[CHOICES_MAX];
    void *dst, *src;
    int evict;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O&O&O&O&IIIp:copy_time", &PyTuple_Type, &sequence, to_address, &dst, to_address,
                          &src, to_nbytes, &trial.area_nbytes, to_nbytes, &trial.nbytes,
                          &trial.settling_copies, &trial.copies_a_sample, &trial.repeats, &evict))
        return NULL;
    Py_ssize_t count = PyTuple_Size(sequence);
    if (count > CHOICES_MAX || trial.nbytes > trial.area_nbytes || !trial.copies_a_sample || trial.repeats > 1u << 20)
        return PyErr_Format(PyExc_ValueError, "at most %d choices, copies within the area, one or more a burst",
                            CHOICES_MAX);
    for (Py_ssize_t i = 0; i < count; i++)
        if (!to_choice(PyTuple_GetItem(sequence, i), &choices[i])) return NULL;
    trial.dst = dst;
    trial.src = src;
    trial.evict = evict != 0;
    double *ns = malloc((size_t)count * trial.repeats * sizeof *ns + 1);
    if (!ns) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    shmt_copy_time(&trial, choices, (size_t)count, ns);
    Py_END_ALLOW_THREADS
    PyObject *result = from_samples(ns, count, trial.repeats);
    free(ns);
    return result;
}

PyMethodDef shmt_copy_methods[] = {
    {"copy", face_copy, METH_VARARGS, "Copy as the plan says."},
    {"copy_with", face_copy_with, METH_VARARGS, "Copy with a chosen kernel and number of threads."},
    {"copy_facts", face_copy_facts, METH_NOARGS, "What there is to choose from, and the least size of each class."},
    {"copy_choose", face_copy_choose, METH_VARARGS, "What the plan says for a size and a ring's footprint."},
    {"copy_plan", face_copy_plan, METH_NOARGS, "The plan, or None."},
    {"copy_set_plan", face_copy_set_plan, METH_O, "Set or, with None, forget the plan."},
    {"copy_calibrate", face_copy_calibrate, METH_NOARGS, "Measure this machine and return a plan, without setting it."},
    {"copy_time", face_copy_time, METH_VARARGS, "Time choices side by side, in ns a copy."},
    {0},
};
