import random
from shoal.importance import RepresentationChange
def test_s(ask_images):
    request=ask_images("units=6"); free=request.chain.removable
    change=RepresentationChange(request.model,request.chain,request.batches)
    r=random.Random(1)
    for _ in range(60):
        times=[float(r.randint(1,9)) for _ in range(9)]
        res=[]
        for rule in (0,1):
            gone=[]
            while len(gone)<len(free):
                rest=[u for u in free if u not in gone]
                now,*then=change.of([gone,*([*gone,u] for u in rest)])
                f=lambda c,u: c/times[u] if c>0 else c
                rates={u: f(c-(now if rule==0 else 0),u) for u,c in zip(rest,then)}
                gone.append(min(rates,key=rates.get))
            res.append(gone)
        if res[0]!=res[1]: print(times,res)
